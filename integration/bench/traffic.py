"""The bench's own side of Kafka: makes topics, sends requests, reads results."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from integration.bench.config import PARTITIONS, Topics

RESULT_PARTITIONS = 4
ADMIN_SECONDS = 30.0
POLL_SECONDS = 0.05
READ_AT_ONCE = 500
NANOSECONDS_PER_MS = 1e6


class BenchFailed(RuntimeError):
    """A measurement could not be made; the text says what was awaited."""


def make_topics(brokers: str, topics: Topics) -> None:
    """Create source, dead-letter and result topic; returns when the broker has made them."""
    admin = AdminClient({"bootstrap.servers": brokers})
    wanted = {
        topics.source: PARTITIONS,
        f"{topics.source}_dlq": 1,
        topics.results: RESULT_PARTITIONS,
    }
    made = admin.create_topics([NewTopic(name, count, 1) for name, count in wanted.items()])
    for future in made.values():
        future.result(ADMIN_SECONDS)


class Sender:
    """Requests, spread evenly over the partitions of a topic."""

    def __init__(
        self, brokers: str, topic: str, linger_ms: int, partitions: int = PARTITIONS
    ) -> None:
        self._topic = topic
        self._partitions = partitions
        self._sent = 0
        self._producer = Producer({"bootstrap.servers": brokers, "linger.ms": linger_ms})

    def send(self, number: int) -> None:
        """Hand one request to the client."""
        value = f'{{"number": {number}, "sent_ns": {time.monotonic_ns()}}}'
        partition = self._sent % self._partitions
        self._sent += 1
        self._producer.produce(self._topic, value=value.encode(), partition=partition)

    def poll(self, timeout_seconds: float) -> None:
        """Serve the client for so long at most."""
        self._producer.poll(timeout_seconds)

    def flush(self) -> None:
        """Wait until the broker has everything. Raises BenchFailed."""
        left = self._producer.flush(ADMIN_SECONDS)
        if left:
            raise BenchFailed(f"{self._topic}: {left} requests could not be sent")

    def send_steadily(self, messages: int, per_second: float) -> None:
        """Send 0, 1, 2... at an even pace, then flush."""
        began = time.monotonic()
        for number in range(messages):
            while (left := began + number / per_second - time.monotonic()) > 0:
                self.poll(left)
            self.send(number)
        self.flush()


class Results:
    """What is readable on the sink's topic: the first time each number is seen.

    ``seen_at`` and ``latency_ms`` are by number; times are monotonic seconds.
    """

    def __init__(self, brokers: str, topic: str, max_wait_ms: int) -> None:
        self.seen_at: dict[int, float] = {}
        self.latency_ms: dict[int, float] = {}
        self.duplicates = 0
        self._topic = topic
        self._consumer = Consumer(
            {
                "bootstrap.servers": brokers,
                "group.id": f"{topic}-reader",
                "enable.auto.commit": False,
                "fetch.wait.max.ms": max_wait_ms,
            }
        )
        partitions = range(RESULT_PARTITIONS)
        self._consumer.assign([TopicPartition(topic, one, OFFSET_BEGINNING) for one in partitions])

    def read_until(
        self, is_enough: Callable[[], bool], timeout_seconds: float, problem: Callable[[], str]
    ) -> None:
        """Read until enough was seen. Raises BenchFailed with ``problem()`` when it takes long."""
        deadline = time.monotonic() + timeout_seconds
        while not is_enough():
            self._read_some()
            if time.monotonic() > deadline:
                seen = len(self.seen_at)
                raise BenchFailed(f"{self._topic}: only {seen} results came\n{problem()}")

    def close(self) -> None:
        """Let go of the client."""
        self._consumer.close()

    def _read_some(self) -> None:
        first = self._consumer.poll(POLL_SECONDS)
        if first is None:
            return
        for message in [first, *self._consumer.consume(READ_AT_ONCE, 0)]:
            if message.error() is None:
                self._note(json.loads(message.value() or b"{}"))

    def _note(self, result: dict[str, int]) -> None:
        now_ns, number = time.monotonic_ns(), result["number"]
        if number in self.seen_at:
            self.duplicates += 1
            return
        self.seen_at[number] = now_ns / 1e9
        self.latency_ms[number] = (now_ns - result["sent_ns"]) / NANOSECONDS_PER_MS


class Group:
    """The worker's consumer group, seen from outside."""

    def __init__(self, brokers: str, topics: Topics) -> None:
        self._consumer = Consumer({"bootstrap.servers": brokers, "group.id": topics.group})
        self._wanted = [TopicPartition(topics.source, one) for one in range(PARTITIONS)]

    def committed(self) -> int:
        """Messages committed so far: the sum of the offsets of all partitions."""
        found = self._consumer.committed(self._wanted, timeout=ADMIN_SECONDS)
        return sum(max(0, one.offset) for one in found)

    def close(self) -> None:
        """Let go of the client."""
        self._consumer.close()
