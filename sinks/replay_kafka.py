"""Transport of replays through Kafka."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sinks.backends.kafka import TopicWriter, translate
from sinks.letter import split_headers
from sinks.models import DeadLetter
from sinks.record_headers import record_headers
from sinks.record_reader import read_record
from sinks.replay import Original, Sent

TIMEOUT_SECONDS = 10.0
QUIET = {"log_level": 0}
"""A person reads one error, not a line for each attempt to connect."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Brokers, and how to talk to them."""

    brokers: str
    client: Mapping[str, Any]


class KafkaReplayTransport:
    """Transport (``sinks.replay.ReplayTransport``) over Kafka, for one thread."""

    def __init__(self, *, topic: str, source: Place, letters: Place) -> None:
        self._letters = letters
        self._partitions = 0
        self._writer = TopicWriter(
            topic=topic,
            brokers=source.brokers,
            client=QUIET | dict(source.client),
            timeout_seconds=TIMEOUT_SECONDS,
        )

    @property
    def topic(self) -> str:
        """Source topic."""
        return self._writer.topic

    def open(self) -> None:
        """Count the topic's partitions. Raises TransientError or ConfigError."""
        self._partitions = self._writer.partition_count()

    def read(self, letter: DeadLetter) -> Original | None:
        """Return the record without the headers of the dead-letter topic."""
        found = read_record(
            letter.letter_topic,
            letter.letter_partition,
            letter.letter_offset,
            brokers=self._letters.brokers,
            client=QUIET | dict(self._letters.client),
            timeout_seconds=TIMEOUT_SECONDS,
        )
        if found is None:
            return None
        headers, _ = split_headers(record_headers(found))
        return Original(key=_bytes(found.key()), value=_bytes(found.value()), headers=headers)

    def send(self, original: Original, partition: int) -> Sent:
        """Wait for the delivery report. Raises SinkError."""
        record: dict[str, Any] = {
            "key": original.key,
            "value": original.value,
            "headers": list(original.headers),
        }
        if partition < self._partitions:
            record["partition"] = partition
        report = self._writer.write([record])[0]
        if report.error is not None:
            raise translate(report.error, self.topic)
        return Sent(topic=self.topic, partition=report.partition, offset=report.offset)


def transport_of(cluster: Any) -> KafkaReplayTransport:
    """Return the transport of a cluster by its configuration (``workers.config.ClusterConfig``)."""
    kafka, letters = cluster.kafka, cluster.dead_letters
    own = kafka.client if letters.brokers is None else {}
    return KafkaReplayTransport(
        topic=kafka.topic,
        source=Place(brokers=kafka.brokers, client=kafka.client),
        letters=Place(brokers=letters.brokers or kafka.brokers, client={**own, **letters.client}),
    )


def _bytes(content: str | bytes | None) -> bytes | None:
    return content.encode() if isinstance(content, str) else content
