"""Source topic of a cluster: reads its records by their places, and stores them there again."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

from domain.message import Header, Record
from domain.origin import MAX_ONLY_TASKS, ONLY_TASKS_HEADER, REPLAY_HEADER, MessageOrigin
from sinks.backends.kafka import TopicWriter, translate
from sinks.base import SinkError
from sinks.record_reader import read_records
from sinks.replay import Original, Sent
from sinks.replay_kafka import QUIET, TIMEOUT_SECONDS
from workers.broker.kafka_records import record_of
from workers.config import KafkaConfig
from workers.control_plane.rerun.outcomes import Place


class SourceTopic(Protocol):
    """One cluster's source topic, for one thread."""

    @property
    def topic(self) -> str:
        """Name of the topic."""

    def open(self) -> None:
        """Look at the topic. Raises SinkError."""

    def read(self, places: Collection[Place]) -> Mapping[Place, Record | None]:
        """Return each record; None when the topic does not hold it any more. Raises SinkError."""

    def send(self, records: Sequence[tuple[int, Original]]) -> Sequence[Sent | SinkError]:
        """Store each, in its partition where there are as many, and return what became of it.

        Raises TransientError when nobody knows.
        """


SourceTopics = Mapping[str, Callable[[], SourceTopic]]
"""The source topic of each cluster."""


class KafkaSourceTopic:
    """Source topic (``SourceTopic``) in Kafka."""

    def __init__(self, kafka: KafkaConfig) -> None:
        self._client = QUIET | dict(kafka.client)
        self._brokers = kafka.brokers
        self._partitions = 0
        self._writer = TopicWriter(
            topic=kafka.topic,
            brokers=kafka.brokers,
            client=self._client,
            timeout_seconds=TIMEOUT_SECONDS,
        )

    @property
    def topic(self) -> str:
        """Name of the topic."""
        return self._writer.topic

    def open(self) -> None:
        """Count the topic's partitions. Raises TransientError or ConfigError."""
        self._partitions = self._writer.partition_count()

    def read(self, places: Collection[Place]) -> Mapping[Place, Record | None]:
        """Read each by its place; nothing is committed. Raises SinkError."""
        there = [place for place in places if place[0] < self._partitions]
        read = read_records(
            self.topic,
            there,
            brokers=self._brokers,
            client=self._client,
            timeout_seconds=TIMEOUT_SECONDS,
        )
        found = {place: None if each is None else record_of(each) for place, each in read.items()}
        return {place: found.get(place) for place in places}

    def send(self, records: Sequence[tuple[int, Original]]) -> Sequence[Sent | SinkError]:
        """Write all at once and wait for the delivery reports. Raises SinkError."""
        reports = self._writer.write([self._written(each, record) for each, record in records])
        return [
            translate(report.error, self.topic)
            if report.error is not None
            else Sent(topic=self.topic, partition=report.partition, offset=report.offset)
            for report in reports
        ]

    def _written(self, partition: int, record: Original) -> dict[str, Any]:
        written: dict[str, Any] = {
            "key": record.key,
            "value": record.value,
            "headers": list(record.headers),
        }
        return written | ({"partition": partition} if partition < self._partitions else {})


def rerun_of(
    record: Record, cluster: str, tasks: Sequence[int], *, is_new_identity: bool
) -> Original:
    """Return the record as it is sent again, byte for byte but for our headers.

    It names the message that it is a rerun of, so that its delivery ids are the same, and the tasks
    that alone are to run (none: those that the record itself named, else all). With a new identity
    it names neither: it is a message of its own, and all its tasks run.
    """
    own = (REPLAY_HEADER, ONLY_TASKS_HEADER)
    headers: list[Header] = [header for header in record.headers if header[0] not in own]
    if not is_new_identity:
        headers.append((REPLAY_HEADER, str(MessageOrigin.of(record, cluster)).encode()))
        if 0 < len(tasks) <= MAX_ONLY_TASKS:
            headers.append((ONLY_TASKS_HEADER, ",".join(map(str, tasks)).encode()))
    return Original(key=record.key, value=record.value, headers=headers)
