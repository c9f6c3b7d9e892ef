"""Questions of the demo to Kafka: topics, end offsets, committed offsets."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from confluent_kafka import OFFSET_END, Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    NewTopic,
)

from integration.services import kafka_apache
from integration.services.base import Launch, await_ready

REQUEST_SECONDS = 10.0
SAMPLE_SECONDS = 0.1
RETURN_SECONDS = 120.0
"""A broker that comes back beside the whole demo takes longer than one that starts alone."""
RECONNECT_MAX_MS = 500
"""A sample must be there soon after a broker's return: by itself the client waits up to 10 s."""


def kafka_kind(asked: str) -> str:
    """The kind of broker that ``--kafka`` asks for, apache or mock; says why auto is the mock."""
    if asked != "auto":
        return asked
    reason = kafka_apache.missing()
    if reason is None:
        return "apache"
    print(f"  {reason}; using librdkafka's mock cluster", flush=True)
    return "mock"


def create_topics(brokers: str, names: Iterable[str], partitions: int) -> None:
    """Create empty topics. Raises KafkaException."""
    wanted = [NewTopic(name, num_partitions=partitions, replication_factor=1) for name in names]
    client = AdminClient({"bootstrap.servers": brokers, "log_level": 0})
    for created in client.create_topics(wanted, request_timeout=REQUEST_SECONDS).values():
        created.result()


def retry_number(partition: int) -> int:
    """Return how a partition of the retry topic is named beside those of the source: -1, -2, ..."""
    return -1 - partition


class Offsets:
    """Reads the offsets of one group in its source topic, and in its retry topic if it has one,
    whose partitions are named as ``retry_number`` says. Raises KafkaException.

    A consumer that never subscribes asks: librdkafka's admin client crashes while the group has no
    coordinator yet (librdkafka issue 5040), and never finds ends again after a broker's restart.
    """

    def __init__(
        self, brokers: str, topic: str, group: str, partitions: int, retry_topic: str = ""
    ) -> None:
        settings: dict[str, Any] = {"bootstrap.servers": brokers, "log_level": 0}
        settings["reconnect.backoff.max.ms"] = RECONNECT_MAX_MS
        self._consumer = Consumer({**settings, "group.id": group, "enable.auto.commit": False})
        self._places = {number: (topic, number) for number in range(partitions)}
        if retry_topic:
            self._places |= {
                retry_number(number): (retry_topic, number) for number in range(partitions)
            }

    def ends(self) -> dict[int, int]:
        """End offset by partition, of the partitions that hold a message."""
        # OFFSET_END in place of a time asks for the end.
        parts = [TopicPartition(*place, OFFSET_END) for place in self._places.values()]
        found = self._told(self._consumer.offsets_for_times(parts, timeout=REQUEST_SECONDS))
        return {number: offset for number, offset in found.items() if offset > 0}

    def committed(self) -> dict[int, int]:
        """Committed offset by partition, of the partitions that have one."""
        parts = [TopicPartition(*place) for place in self._places.values()]
        found = self._told(self._consumer.committed(parts, timeout=REQUEST_SECONDS))
        return {number: offset for number, offset in found.items() if offset >= 0}

    def are_drained(self) -> bool:
        """Whether there was a message and every one is committed; not so while Kafka is away."""
        try:
            ends, committed = self.ends(), self.committed()
        except KafkaException:
            return False
        return bool(ends) and all(committed.get(n, -1) >= end for n, end in ends.items())

    def _told(self, found: Iterable[TopicPartition]) -> dict[int, int]:
        """Offset by partition. Raises KafkaException where one could not be told."""
        offsets = {}
        for one in found:
            if one.error is not None:
                raise KafkaException(one.error)
            offsets[one.topic, one.partition] = one.offset
        return {number: offsets[place] for number, place in self._places.items()}


class Sampler(threading.Thread):
    """Appends the committed offsets to a file every 100 ms, a JSON object a line.

    ``sampled_at`` is the time of the last line, 0 before the first.
    """

    def __init__(self, offsets: Offsets, path: Path) -> None:
        super().__init__(name="sampler", daemon=True)
        self._offsets = offsets
        self._path = path
        self._stopping = threading.Event()
        self.sampled_at = 0.0

    def run(self) -> None:
        """Sample until ``stop``; a request that fails (a rebalance) leaves its sample out."""
        with self._path.open("a") as out:
            while not self._stopping.wait(SAMPLE_SECONDS):
                try:
                    found = self._offsets.committed()
                except KafkaException:
                    continue
                # After the answer, which may take a second: so much was committed by then.
                at = time.time()
                out.write(json.dumps({"at": at, "offsets": found}) + "\n")
                out.flush()
                self.sampled_at = at

    def stop(self) -> None:
        """End the thread; the file is whole afterwards."""
        self._stopping.set()
        self.join(REQUEST_SECONDS)


def await_return(
    launch: Launch, samplers: Sequence[Sampler], has_ended: Callable[[], str | None]
) -> float:
    """Wait until a broker that was away answers, its groups' offsets too; the seconds it took.

    Raises ServiceFailed.
    """
    began = time.time()

    def answers() -> bool:
        return launch.is_ready() and all(sampler.sampled_at > began for sampler in samplers)

    patient = replace(launch, is_ready=answers, ready_seconds=RETURN_SECONDS)
    return await_ready(patient, has_ended)
