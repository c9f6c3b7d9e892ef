"""The controller on a real PostgreSQL: one leads, each job is supervised by itself."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from uuid import uuid4

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from django.db import connection
from django.db.models.functions import Now
from prometheus_client import CollectorRegistry, generate_latest

from domain.events import Event, WorkerLost, ignore
from integration.services.kafka_mock import RunningMock
from recorder.export import Selection
from recorder.export_jobs import ask_for
from recorder.models import ExportJob, RunState
from tests.support.factories import Story, make_events, make_run
from tests.support.upkeep import a_turn, an_upkeep
from workers.broker.base import BrokerUnavailable
from workers.broker.kafka_lag import group_lag
from workers.clock import Clock
from workers.config import KafkaConfig
from workers.control_plane.controller import Controller, ControllerCollector
from workers.control_plane.jobs import JOBS, Job, Turn, judge_lost, measure_lags

pytestmark = pytest.mark.django_db(transaction=True)
WAIT_SECONDS = 20.0


class Hands(Clock):
    """A clock that is set by hand."""

    seconds = 1000.0

    def now(self) -> float:
        return self.seconds

    def wall(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Hands:
    return Hands()


@pytest.fixture(autouse=True)
def _lock_is_given_up() -> Iterator[None]:
    yield
    connection.close()


def failing(times: int, told: list[float], clock: Hands) -> Job:
    def run(turn: Turn) -> None:
        told.append(clock.seconds)
        if len(told) <= times:
            raise ValueError("broken")

    return Job(name="failing", interval_seconds=1.0, run=run)


def test_a_failing_job_backs_off_and_its_neighbours_go_on(clock: Hands) -> None:
    told: list[float] = []
    others: list[float] = []
    good = Job(name="good", interval_seconds=1.0, run=lambda turn: others.append(clock.seconds))
    controller = Controller(ignore, clock, an_upkeep(), [failing(3, told, clock), good])
    for _ in range(20):
        controller.turn()
        clock.seconds += 1.0
    waits = [after - before for before, after in pairwise(told)]
    assert waits == [2.0, 4.0, 8.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    assert len(others) == 20
    assert controller.standings["failing"].failures == 3
    assert controller.is_leader
    text = exposed(controller)
    assert 'drakkar_control_job_failures_total{job="failing"} 3.0' in text
    assert 'drakkar_control_job_failures_total{job="good"} 0.0' in text


def exposed(controller: Controller) -> str:
    registry = CollectorRegistry()
    registry.register(ControllerCollector(controller))
    return generate_latest(registry).decode()


def test_no_run_is_counted_before_postgres_was_asked(clock: Hands) -> None:
    """A 0 that rises to what was lost long ago would page somebody at each start."""
    controller = Controller(ignore, clock, an_upkeep(), [])
    assert "drakkar_control_workers{" not in exposed(controller)
    controller.turn()
    assert 'drakkar_control_workers{state="lost"} 0.0' in exposed(controller)


def test_a_long_job_holds_up_nobody_and_runs_once_at_a_time(clock: Hands) -> None:
    may_end, others = threading.Event(), []
    starts = threading.Semaphore(0)

    def long(turn: Turn) -> None:
        starts.release()
        assert may_end.wait(WAIT_SECONDS)

    jobs = [
        Job(name="long", interval_seconds=1.0, run=long, is_long=True),
        Job(name="short", interval_seconds=1.0, run=lambda turn: others.append(1)),
    ]
    controller = Controller(ignore, clock, an_upkeep(), jobs)
    for _ in range(5):
        controller.turn()
        clock.seconds += 5.0
    assert starts.acquire(timeout=WAIT_SECONDS)
    assert not starts.acquire(blocking=False)
    assert len(others) == 5
    may_end.set()
    thread = controller.standings["long"].thread
    assert thread is not None
    thread.join(WAIT_SECONDS)
    clock.seconds += 5.0
    controller.turn()
    assert starts.acquire(timeout=WAIT_SECONDS)


def silent_run() -> RunState:
    run = make_run(worker="silent")
    RunState.objects.filter(run=run).update(beat_at=Now() - timedelta(seconds=11))
    return RunState.objects.get(run=run)


def test_a_run_is_judged_only_after_three_beats_of_reaching_postgres(clock: Hands) -> None:
    beat, told = silent_run(), list[Event]()
    (job,) = (job for job in JOBS if job.name == "lost")
    controller = Controller(told.append, clock, an_upkeep(), [job])
    for seconds in (0.0, 2.0, 2.0, 1.9):
        clock.seconds += seconds
        controller.turn()
        beat.refresh_from_db()
        assert beat.state == "ready"
    clock.seconds += 0.2
    controller.turn()
    clock.seconds += 2.0
    controller.turn()
    beat.refresh_from_db()
    assert beat.state == "lost"
    (lost,) = told
    assert isinstance(lost, WorkerLost)
    assert lost.silent_seconds >= 11
    assert 'drakkar_control_workers{state="lost"} 1.0' in exposed(controller)
    assert "drakkar_control_default_partition_rows 0.0" not in exposed(controller)  # uncounted


def test_rows_without_a_day_are_counted_for_the_alarm(clock: Hands) -> None:
    (job,) = (job for job in JOBS if job.name == "strays")
    controller = Controller(list[Event]().append, clock, an_upkeep(), [replace(job, is_long=False)])
    controller.turn()
    assert "drakkar_control_default_partition_rows 0.0" in exposed(controller)
    make_events(2, ts=datetime(2001, 1, 1, tzinfo=UTC), run=make_run().id)
    clock.seconds += 15
    controller.turn()
    assert "drakkar_control_default_partition_rows 2.0" in exposed(controller)


def test_an_outage_starts_the_waiting_anew(clock: Hands) -> None:
    told: list[Event] = []
    beat = silent_run()
    judge_lost(a_turn(told, reached_seconds=5.9))
    assert told == []
    judge_lost(a_turn(told, reached_seconds=6.0))
    assert [event.kind for event in told] == ["worker_lost"]
    beat.refresh_from_db()
    assert beat.state == "lost"


def test_exports_are_run_by_the_controller(clock: Hands, tmp_path: Path) -> None:
    story = Story(make_run(recorded_seq=1))
    story.consumed(0, 7)
    ask_for(Selection(runs=[story.run.id]), "csv", "x", "mara")
    (job,) = (job for job in JOBS if job.name == "exports")
    controller = Controller(ignore, clock, an_upkeep(tmp_path), [job])
    controller.turn()
    thread = controller.standings["exports"].thread
    assert thread is not None
    thread.join(WAIT_SECONDS)
    assert ExportJob.objects.get().state == "done"
    assert len(list(tmp_path.iterdir())) == 1


def kafka(brokers: str, topic: str) -> KafkaConfig:
    return KafkaConfig(brokers=brokers, topic=topic, group=f"group-{topic}")


def test_the_lag_of_a_group_without_workers_is_asked_of_kafka(kafka_mock: RunningMock) -> None:
    topic = f"lag-{uuid4().hex[:8]}"
    producer = Producer({"bootstrap.servers": kafka_mock.brokers})
    for _ in range(10):
        producer.produce(topic, b"x", partition=0)
    assert producer.flush(WAIT_SECONDS) == 0
    section = kafka(kafka_mock.brokers, topic)
    assert group_lag(section) == 10
    consumer = Consumer({"bootstrap.servers": kafka_mock.brokers, "group.id": section.group})
    consumer.commit(offsets=[TopicPartition(topic, 0, 4)], asynchronous=False)
    consumer.close()
    assert group_lag(section) == 6
    turn = a_turn(upkeep=an_upkeep(kafka={"main": section}))
    measure_lags(turn)
    assert turn.lags == {"main": 6}
    row = {"topic": topic, "partition": 0, "lag": 3, "state": "running"}
    make_run(beat__partitions=[row])
    measure_lags(turn)
    assert turn.lags == {"main": 3}


@pytest.mark.usefixtures("kafka_has_half_a_second")
def test_an_unknown_lag_is_not_shown(clock: Hands) -> None:
    nowhere = kafka("127.0.0.1:1", "t")
    with pytest.raises(BrokerUnavailable):
        group_lag(nowhere)
    controller = Controller(ignore, clock, an_upkeep(), [])
    controller.turn()
    controller._lags["main"] = None
    controller._lags["fast"] = 4
    assert 'drakkar_control_group_lag{cluster="fast"} 4.0' in exposed(controller)
    assert 'cluster="main"' not in exposed(controller)
