"""Delayed retries by real workers on Apache Kafka: over restarts and a death nothing is lost."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from integration.demo.kafka import create_topics
from integration.services.kafka_apache import RunningKafka
from tests.support.worker_process import WAIT_SECONDS, Scene, ScriptHandler, delivery_ids, until
from workers.handler import Retry, TaskDecision, TaskFailure

pytestmark = pytest.mark.timeout(300)

PARTITIONS = 4
MESSAGES = 400
FAILING = 5
"""Every so many messages one fails at first, and is to run again later."""
DELAY_SECONDS = 1.5
DRAINED_SECONDS = 120.0


class Patient(ScriptHandler):
    """What failed runs again after a while."""

    async def on_error(self, failure: TaskFailure) -> TaskDecision:
        """A retry that is too far away to be waited for in place."""
        return Retry(delay_seconds=DELAY_SECONDS)


@pytest.fixture
def make_scene(kafka_apache: RunningKafka, process_database: str, tmp_path: Path) -> Iterator[Any]:
    """Makes a scene with a retry topic on Apache Kafka."""
    scenes: list[Scene] = []

    def make(protocol: str, topic: str) -> Scene:
        create_topics(kafka_apache.brokers, [topic, f"{topic}-retry"], PARTITIONS)
        create_topics(kafka_apache.brokers, [f"{topic}-out", f"{topic}_dlq"], 1)
        scene = Scene(
            folder=tmp_path,
            brokers=kafka_apache.brokers,
            database_url=process_database,
            topic=topic,
            executor={"max_executors": 4, "retry_in_place_seconds": 0.2},
            cluster={
                "handler": f"{Patient.__module__}:{Patient.__name__}",
                "retry": {"topic": f"{topic}-retry"},
                "kafka": {
                    "brokers": kafka_apache.brokers,
                    "topic": topic,
                    "group": f"{topic}-group",
                    "group_protocol": protocol,
                    "session_timeout_ms": 6000,
                },
            },
        )
        scenes.append(scene)
        return scene

    yield make
    for scene in scenes:
        scene.close()


def fill(scene: Scene) -> None:
    producer = Producer({"bootstrap.servers": scene.brokers})
    for number in range(MESSAGES):
        check = "[ $DRAKKAR_ATTEMPT -ge 2 ] && " if number % FAILING == 0 else ""
        value = b'{"script": "%secho %d"}' % (check.encode(), number)
        producer.produce(scene.topic, value, partition=number % PARTITIONS)
    assert producer.flush(WAIT_SECONDS) == 0


def lag(scene: Scene, topic: str) -> int:
    """Messages of a topic that the group has not committed."""
    places = [TopicPartition(topic, number) for number in range(PARTITIONS)]
    consumer = Consumer({"bootstrap.servers": scene.brokers, "group.id": f"{scene.topic}-group"})
    try:
        done = {place.partition: place.offset for place in consumer.committed(places, timeout=10)}
        ends = [consumer.get_watermark_offsets(place, timeout=10)[1] for place in places]
        return sum(end - max(0, done[number]) for number, end in enumerate(ends))
    finally:
        consumer.close()


def are_drained(scene: Scene) -> bool:
    return not lag(scene, scene.topic) and not lag(scene, f"{scene.topic}-retry")


def judge(scene: Scene) -> Counter[str]:
    """Each message has its result, under its id of the source; returns how often."""
    found = scene.read()
    assert {int(one.value() or b"-1") for one in found} == set(range(MESSAGES))
    assert scene.read("dlq") == []
    ids = Counter(delivery_ids(found))
    assert len(ids) == MESSAGES
    assert all(name.startswith(f"p/{scene.topic}/") for name in ids)
    return ids


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_deferred_messages_live_through_a_rolling_restart(make_scene: Any, protocol: str) -> None:
    scene = make_scene(protocol, f"deferred-{protocol}")
    fill(scene)
    old = [scene.worker(f"w{number}") for number in (1, 2)]
    until(lambda: sum(len(worker.lines("deferred")) for worker in old) > 9, "some are deferred")
    for worker in old:
        worker.signal(signal.SIGTERM)
    new = [scene.worker(f"w{number}") for number in (3, 4)]
    assert [worker.exit_code() for worker in old] == [0, 0]
    until(lambda: are_drained(scene), "all messages have their last fate", DRAINED_SECONDS)
    for worker in new:
        worker.signal(signal.SIGTERM)
    assert [worker.exit_code() for worker in new] == [0, 0]
    assert {name: count for name, count in judge(scene).items() if count > 1} == {}
    deferred = sum(len(worker.lines("deferred")) for worker in [*old, *new])
    assert deferred >= MESSAGES // FAILING


@pytest.mark.slow
def test_a_killed_worker_loses_no_deferred_message(make_scene: Any) -> None:
    scene = make_scene("consumer", "deferred-killed")
    fill(scene)
    victim, other = scene.worker("w1"), scene.worker("w2")
    until(lambda: victim.lines("deferred") and other.lines("deferred"), "both have deferred some")
    victim.signal(signal.SIGKILL)
    until(lambda: are_drained(scene), "all messages have their last fate", DRAINED_SECONDS)
    other.signal(signal.SIGTERM)
    assert other.exit_code() == 0
    judge(scene)
