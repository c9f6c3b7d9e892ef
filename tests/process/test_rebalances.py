"""Rebalances of real workers on Apache Kafka by either protocol: ends clean, nothing twice."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from integration.demo.kafka import create_topics
from integration.services.kafka_apache import RunningKafka
from tests.support.worker_process import (
    WAIT_SECONDS,
    Scene,
    Script,
    WorkerProcess,
    delivery_ids,
    until,
)
from workers.handler import (
    BatchGroup,
    Handler,
    KafkaPayload,
    Message,
    Payload,
    Pending,
    Precomputed,
    Task,
    TaskResult,
)

pytestmark = pytest.mark.timeout(400)

PARTITIONS = 12
BACKLOG = 5000
FILTERED, GIVEN = 17, 5
"""Every so many messages one is filtered, and one has its answer without a program."""
DRAINED_SECONDS = 240.0
"""Far more than the 30 s that an idle machine takes."""


class Short(Handler[Script]):
    """Short tasks, some precomputed; some messages are filtered."""

    async def arrange(
        self, messages: Sequence[Message[Script]], pending: Pending
    ) -> Sequence[Task]:
        """One task a message, or none."""
        wanted = [one.offset for one in messages if one.offset % FILTERED != FILTERED - 1]
        return [self.task_of(offset) for offset in wanted]

    @staticmethod
    def task_of(offset: int) -> Task:
        """A program, or its answer."""
        if offset % GIVEN == GIVEN - 1:
            given = Precomputed(stdout=b"given")
            return Task(precomputed=given, source_offsets=(offset,))
        return Task(args=("-c", ":"), source_offsets=(offset,))

    async def collect(self, result: TaskResult) -> Sequence[Payload]:
        """One payload a task."""
        return [KafkaPayload(sink="out", value=result.task.id.encode())]


class Batched(Short):
    """The same, in batches whose offsets wait for each other."""

    async def on_batch_complete(self, batch: BatchGroup[Script]) -> Sequence[Payload]:
        """The number of messages."""
        return [KafkaPayload(sink="out", value=str(len(batch.groups)).encode())]


@pytest.fixture
def make_scene(kafka_apache: RunningKafka, process_database: str, tmp_path: Path) -> Iterator[Any]:
    """Makes a scene of several partitions on Apache Kafka."""
    scenes: list[Scene] = []

    def make(protocol: str, handler: type[Short], topic: str) -> Scene:
        create_topics(kafka_apache.brokers, [topic], PARTITIONS)
        create_topics(kafka_apache.brokers, [f"{topic}-out", f"{topic}_dlq"], 1)
        scene = Scene(
            folder=tmp_path,
            brokers=kafka_apache.brokers,
            database_url=process_database,
            topic=topic,
            executor={"max_executors": 4},
            cluster={
                "handler": f"{handler.__module__}:{handler.__name__}",
                "kafka": {
                    "brokers": kafka_apache.brokers,
                    "topic": topic,
                    "group": f"{topic}-group",
                    "group_protocol": protocol,
                },
            },
        )
        scenes.append(scene)
        return scene

    yield make
    for scene in scenes:
        scene.close()


def fill(scene: Scene, count: int, first: int = 0) -> None:
    producer = Producer({"bootstrap.servers": scene.brokers})
    for number in range(first, count):
        producer.produce(scene.topic, b'{"script": ""}', partition=number % PARTITIONS)
    assert producer.flush(WAIT_SECONDS) == 0


def committed(scene: Scene) -> int:
    """The group's offsets in all partitions, added."""
    places = [TopicPartition(scene.topic, number) for number in range(PARTITIONS)]
    consumer = Consumer({"bootstrap.servers": scene.brokers, "group.id": f"{scene.topic}-group"})
    try:
        return sum(max(0, place.offset) for place in consumer.committed(places, timeout=10))
    finally:
        consumer.close()


def ended(worker: WorkerProcess) -> list[dict[str, Any]]:
    return worker.lines("revoked") + worker.lines("lost")


def judge(scene: Scene, workers: Sequence[WorkerProcess], count: int) -> None:
    """Every end was clean, everything was delivered, and nothing twice."""
    ends = [end for worker in workers for end in ended(worker)]
    assert [end for end in ends if end.get("clean") is not True] == []
    found = scene.read()
    twice = {text: n for text, n in Counter(delivery_ids(found)).items() if n > 1}
    assert twice == {}
    tasks = Counter(value for one in found if b":" in (value := one.value() or b""))
    assert {value: n for value, n in tasks.items() if n > 1} == {}
    per_partition = [len(range(p, count, PARTITIONS)) for p in range(PARTITIONS)]
    assert len(tasks) == sum(n - n // FILTERED for n in per_partition)


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_three_workers_that_start_on_a_backlog_double_nothing(
    make_scene: Any, protocol: str
) -> None:
    scene = make_scene(protocol, Short, f"backlog-{protocol}")
    fill(scene, BACKLOG)
    workers = [scene.worker("w1").ready()]
    workers += [scene.worker(name) for name in ("w2", "w3")]
    until(lambda: committed(scene) == BACKLOG, "the backlog is done", DRAINED_SECONDS)
    assert [len(worker.logged("assigned")) > 0 for worker in workers] == [True] * 3
    assert ended(workers[0]), "the first worker gave nothing up: no rebalance was tried"
    for worker in workers:
        worker.signal(signal.SIGTERM)
    assert [worker.exit_code() for worker in workers] == [0, 0, 0]
    judge(scene, workers, BACKLOG)


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_a_rolling_restart_in_the_midst_of_batches_doubles_nothing(
    make_scene: Any, protocol: str
) -> None:
    count, part = 3000, 1000
    scene = make_scene(protocol, Batched, f"rolling-{protocol}")
    fill(scene, part)
    old = [scene.worker(f"w{number}") for number in (1, 2)]
    for worker in old:
        worker.logged("assigned")
    new = []
    for number, worker in enumerate(old, 3):
        before, filled = committed(scene), part * (number - 1)
        fill(scene, filled, filled - part)
        until(lambda before=before: committed(scene) > before, "work goes on", DRAINED_SECONDS)  # type: ignore[misc]
        worker.signal(signal.SIGTERM)
        assert worker.exit_code() == 0
        assert committed(scene) < filled, "the work was done before the restart"
        new.append(scene.worker(f"w{number}"))
        new[-1].logged("assigned")
    until(lambda: committed(scene) == count, "the work is done", DRAINED_SECONDS)
    for worker in new:
        worker.signal(signal.SIGTERM)
    assert [worker.exit_code() for worker in new] == [0, 0]
    judge(scene, [*old, *new], count)
