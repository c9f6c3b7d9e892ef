"""A real worker whose spawners die, whose messages are garbage, whose services are away."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Sequence

import psycopg
import pytest

from integration.demo.kafka import create_topics
from integration.services import postgres as postgres_service
from integration.services.kafka_apache import RunningKafka
from integration.services.kafka_mock import RunningMock
from integration.services.ports import free_port
from integration.told import COUNT_FATES
from tests.process.conftest import MakeScene, migrate
from tests.support.worker_process import (
    Scene,
    Script,
    ScriptHandler,
    WorkerProcess,
    delivery_ids,
    headers_of,
    tagged,
    until,
)
from workers.handler import Message, Pending, Task


@pytest.mark.parametrize("victim", ["spawner", "inner_spawner"])
def test_tasks_of_a_dead_spawner_run_again(scene: Scene, victim: str) -> None:
    worker = scene.worker().ready()
    marks = scene.folder / "starts"
    scene.produce(f"echo x >> {marks}; sleep 1; echo done")
    until(marks.exists, "the task's start")
    os.kill(getattr(worker, victim)(), signal.SIGKILL)
    worker.logged("spawner_lost")
    assert [one.value() for one in scene.results(1)] == [b"done\n"]
    until(lambda: scene.committed() == 1, "the commit")
    assert marks.read_text() == "x\nx\n", "once lost, once run again"
    assert worker.get("/healthz")[0] == 200
    worker.signal(signal.SIGTERM)
    assert worker.exit_code() == 0


def test_a_task_is_run_again_three_times_at_most_for_a_dead_spawner(make_scene: MakeScene) -> None:
    scene = make_scene(executor={"max_retries": 0})
    worker = scene.worker().ready()
    marks = scene.folder / "starts"
    scene.produce(f"echo x >> {marks}; sleep 631.1")
    for deaths in range(1, 5):
        until(lambda: marks.exists() and marks.read_text().count("x") >= deaths, "the next start")  # noqa: B023
        os.kill(worker.spawner(), signal.SIGKILL)
        worker.logged("spawner_lost", deaths)
    (letter,) = scene.results(1, "dlq")
    headers = headers_of(letter)
    assert (headers["drakkar-failure-kind"], headers["drakkar-stage"]) == (b"lost", b"task")
    assert marks.read_text().count("x") == 4
    assert tagged("631.1") == []


def test_five_deaths_in_a_row_end_the_worker(scene: Scene) -> None:
    worker = scene.worker().ready()
    for deaths in range(1, 6):
        pid = until(lambda: _spawner(worker), "a spawner")
        os.kill(pid, signal.SIGKILL)
        if deaths < 5:
            worker.logged("spawner_lost", deaths)
            until(lambda: _spawner(worker) not in (None, pid), "another spawner")  # noqa: B023
    assert worker.exit_code() == 1
    assert "5 spawners died in 30 s" in worker.log


def _spawner(worker: WorkerProcess) -> int | None:
    try:
        return worker.spawner()
    except StopIteration:
        return None


def test_garbage_is_dead_lettered_byte_for_byte(scene: Scene) -> None:
    worker = scene.worker().ready()
    garbage = [os.urandom(4096), b"", b"\xff\xfe\0", b'{"script": 7}', b"[" * 100_000]
    scene.produce_raw(*garbage)
    scene.produce("echo fine")
    letters = scene.results(len(garbage), "dlq")
    assert [one.value() or b"" for one in letters] == garbage
    assert {one.key() for one in letters} == {b"key"}
    stages = [headers_of(one)["drakkar-stage"] for one in letters]
    assert set(stages) == {b"parse"}
    assert [one.value() for one in scene.results(1)] == [b"fine\n"]
    until(lambda: scene.committed() == len(garbage) + 1, "the commit")
    # The figures are those of the last snapshot.
    until(lambda: worker.metric("drakkar_parse_errors_total") == len(garbage), "all are counted")


def test_kafka_away_at_the_start_is_waited_for(scene: Scene, kafka_mock: RunningMock) -> None:
    scene.produce("echo now")
    kafka_mock.broker_down()
    try:
        worker = scene.worker()
        status, said = until(lambda: _says(worker, "kafka"), "readyz names Kafka")
        assert (status, said.partition(":")[0]) == (503, "starting")
        assert worker.get("/healthz")[0] == 200
    finally:
        kafka_mock.broker_up()
    worker.ready()
    assert [one.value() for one in scene.results(1)] == [b"now\n"]


def test_postgres_away_at_the_start_is_waited_for_while_work_goes_on(scene: Scene) -> None:
    port = free_port()
    scene.database_url = postgres_service.database_url(port)
    worker = scene.worker()
    until(lambda: _says(worker, "postgres"), "readyz names Postgres")
    scene.produce("echo without history")
    assert [one.value() for one in scene.results(1)] == [b"without history\n"]
    until(lambda: scene.committed() == 1, "the commit")
    with postgres_service.running(scene.folder / "late", port) as server:
        migrate(server.dsn)
        worker.ready()
        with psycopg.connect(server.dsn, autocommit=True) as database:
            until(
                lambda: database.execute(COUNT_FATES).fetchone() == (1,), "the history, caught up"
            )
        worker.signal(signal.SIGTERM)
        assert worker.exit_code() == 0


def _says(worker: WorkerProcess, word: str) -> tuple[int, str] | None:
    status, body = worker.get("/readyz")
    return (status, body) if word in body else None


def test_a_drain_on_apache(make_scene: MakeScene, kafka_apache: RunningKafka) -> None:
    topic = "process-apache"
    create_topics(kafka_apache.brokers, [topic, f"{topic}-out", f"{topic}_dlq"], 1)
    scene = make_scene(brokers=kafka_apache.brokers, topic=topic)
    worker = scene.worker().ready()
    scene.produce(*(f"sleep 0.5; echo {n}" for n in range(6)))
    worker.busy(2)
    worker.signal(signal.SIGTERM)
    assert worker.exit_code() == 0
    done = scene.read()
    assert 2 <= len(done) < 6
    assert scene.committed() == len(done)
    scene.worker("w2").ready()
    until(lambda: scene.committed() == 6, "everything committed")
    found = scene.read()
    assert sorted(int(one.value() or b"") for one in found) == list(range(6))
    assert len(set(delivery_ids(found))) == 6


class Exiting(ScriptHandler):
    """Has a task of its own, for which it does not wait, and which makes an exit."""

    async def arrange(
        self, messages: Sequence[Message[Script]], pending: Pending
    ) -> Sequence[Task]:
        async def leave() -> None:
            sys.exit(0)

        self.left = asyncio.create_task(leave())
        return await super().arrange(messages, pending)


def test_an_exit_in_a_task_of_the_handlers_own_is_no_good_end(make_scene: MakeScene) -> None:
    scene = make_scene(cluster={"handler": f"{__name__}:Exiting"})
    worker = scene.worker().ready()
    scene.produce("echo one")
    assert worker.exit_code() == 1
    assert "a task of the handler made an exit (0)" in worker.log
