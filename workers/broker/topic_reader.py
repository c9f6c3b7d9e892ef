"""Reads topics from outside, for people: their offsets, their groups' lag, their last messages.

Nothing is committed and no group is joined. Every call blocks, for a bounded time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import BoundedSemaphore
from typing import Any

import confluent_kafka as ck
from confluent_kafka.admin import AdminClient

from domain.message import Header
from sinks.record_headers import record_headers
from workers.broker.base import BrokerUnavailable
from workers.broker.kafka_lag import (
    REQUEST_SECONDS,
    Bounds,
    behind,
    committed_offsets,
    first_at,
    watermarks,
)
from workers.broker.kafka_records import isolation_of
from workers.broker.named_topics import NamedTopic
from workers.clock import Deadline
from workers.config import KafkaConfig

MAX_MESSAGES = 50
READ_SECONDS = 6.0
READERS = 4
WAIT_SECONDS = 1.0
FETCH: Mapping[str, Any] = {
    "group.id": "drakkar-reader",
    "enable.auto.commit": False,
    "enable.partition.eof": True,
    "auto.offset.reset": "earliest",
    "fetch.message.max.bytes": 256 * 1024,
    "fetch.max.bytes": 8 * 1024 * 1024,
    "queued.max.messages.kbytes": 8 * 1024,
    "fetch.wait.max.ms": 50,
}
"""A reader's own settings; they outrank the configured ones."""
_readers = BoundedSemaphore(READERS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """A message as it lies in its topic. ``timestamp_ms`` is None where the topic keeps none."""

    partition: int
    offset: int
    timestamp_ms: int | None
    key: bytes | None
    value: bytes | None
    headers: Sequence[Header]


def bounds_of(topics: Sequence[NamedTopic]) -> dict[str, dict[int, Bounds]]:
    """First and next offset of each partition, by topic; a topic that is not there is left out.

    The topics are of one place. Raises BrokerUnavailable.
    """
    with _reading(topics[0]) as settings:
        client = AdminClient(settings)
        known = client.list_topics(timeout=REQUEST_SECONDS).topics
        parts = [
            ck.TopicPartition(name, number)
            for name in dict.fromkeys(each.topic for each in topics)
            if name in known and known[name].error is None
            for number in known[name].partitions
        ]
        found: dict[str, dict[int, Bounds]] = {}
        for (name, number), bounds in (
            watermarks(client, parts, isolation_of(settings)) if parts else {}
        ).items():
            found.setdefault(name, {})[number] = bounds
        return found


def lags_of(source: NamedTopic, kafka: KafkaConfig, bounds: Mapping[int, Bounds]) -> dict[int, int]:
    """Return what the cluster's group has not committed, by partition. Raises BrokerUnavailable."""
    with _reading(source) as settings:
        parts = [ck.TopicPartition(source.topic, number) for number in bounds]
        committed = committed_offsets(settings, kafka.group, parts)
        return behind(bounds, committed, kafka.start_at)


def offset_at(topic: NamedTopic, partition: int, timestamp_ms: int) -> int:
    """Return the offset of the first message at or after a time (UTC epoch milliseconds); the end,
    if there is none. Raises BrokerUnavailable."""
    with _reading(topic) as settings:
        part = ck.TopicPartition(topic.topic, partition)
        client, isolation = AdminClient(settings), isolation_of(settings)
        found = first_at(client, part, timestamp_ms, isolation)
        if found is not None:
            return found
        return watermarks(client, [part], isolation)[topic.topic, partition][1]


def last_messages(topic: NamedTopic, bounds: Mapping[int, Bounds], count: int) -> list[Read]:
    """Return the last messages of each of these partitions, ``count`` (at most 50) over all of them
    and at least one each for as many; the youngest first. Raises BrokerUnavailable.

    Fewer come where the topic has gaps, or when the time (6 s) was not enough.
    """
    count = min(count, MAX_MESSAGES)
    filled = {number: each for number, each in bounds.items() if each[0] < each[1]}
    share = max(1, count // max(1, len(filled)))
    places = [
        ck.TopicPartition(topic.topic, number, max(first, end - share))
        for number, (first, end) in sorted(filled.items())[:count]
    ]
    if not places:
        return []
    with _reading(topic) as settings:
        consumer = ck.Consumer({**settings, **FETCH})
        try:
            consumer.assign(places)
            read = list(_until_the_end(consumer, len(places), count))
        finally:
            consumer.close()
    return sorted(read, key=lambda each: (each.timestamp_ms or 0, each.offset), reverse=True)


def _until_the_end(consumer: ck.Consumer, partitions: int, count: int) -> Iterator[Read]:
    deadline, ended, taken = Deadline(READ_SECONDS), 0, 0
    while ended < partitions and taken < count and deadline.remaining_seconds():
        message = consumer.poll(deadline.remaining_seconds())
        if message is None:
            return
        if (error := message.error()) is None:
            taken += 1
            yield _read(message)
        elif error.code() == ck.KafkaError._PARTITION_EOF:
            ended += 1
        else:
            raise ck.KafkaException(error)


def _read(message: Any) -> Read:
    kind, timestamp = message.timestamp()
    return Read(
        partition=message.partition(),
        offset=message.offset(),
        timestamp_ms=None if kind == ck.TIMESTAMP_NOT_AVAILABLE else timestamp,
        key=message.key(),
        value=message.value(),
        headers=record_headers(message),
    )


@contextmanager
def _reading(topic: NamedTopic) -> Iterator[dict[str, Any]]:
    """Return the client settings of a topic's place, for one of a few readers at a time. Raises
    BrokerUnavailable for whatever goes wrong inside."""
    if not _readers.acquire(timeout=WAIT_SECONDS):
        raise BrokerUnavailable(f"{READERS} others read from Kafka now: try again")
    own = {"bootstrap.servers": topic.brokers, "allow.auto.create.topics": False}
    try:
        yield {"log_level": 0, **topic.client, **own}
    except ck.KafkaException as exc:
        raise BrokerUnavailable(f"{topic.brokers}: {exc.args[0].str()}") from exc
    except (TypeError, ValueError) as exc:
        raise BrokerUnavailable(f"{topic.topic}: client options refused: {exc}") from exc
    finally:
        _readers.release()
