"""Reads topics from outside, for people: their offsets, their groups' lag, their last messages.

Nothing is committed and no group is joined. Every call blocks, for a bounded time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from heapq import nlargest
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
    firsts_at,
    watermarks,
)
from workers.broker.kafka_records import isolation_of
from workers.broker.named_topics import NamedTopic
from workers.clock import Deadline
from workers.config import KafkaConfig

MAX_MESSAGES = 50
MAX_LOOKED_AT = 5000
"""Messages that one search looks at, over all partitions."""
MAX_LOOKED_AT_BYTES = 64 * 1024 * 1024
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


@dataclass(slots=True, kw_only=True)
class Found:
    """Messages that a read took of those ``looked_at``; ``next_offsets`` say where each partition
    goes on. ``is_cut``: the time or the bytes of one read were not enough."""

    messages: list[Read] = field(default_factory=list)
    looked_at: int = 0
    next_offsets: dict[int, int] = field(default_factory=dict)
    is_cut: bool = False


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


def offsets_at(
    topic: NamedTopic, partitions: Sequence[int], timestamp_ms: int
) -> dict[int, int | None]:
    """Return the offset of each partition's first message at or after a time (UTC epoch
    milliseconds); None where there is none. Raises BrokerUnavailable."""
    with _reading(topic) as settings:
        parts = [ck.TopicPartition(topic.topic, number) for number in partitions]
        return firsts_at(AdminClient(settings), parts, timestamp_ms, isolation_of(settings))


def last_messages(
    topic: NamedTopic,
    bounds: Mapping[int, Bounds],
    count: int,
    *,
    look_at: int = 0,
    wanted: Callable[[Read], bool] = bool,
    most: int = MAX_MESSAGES,
) -> Found:
    """Return the last messages of these partitions, ``count`` (at most ``most``) over all of them
    and at least one each for as many; the youngest first. Raises BrokerUnavailable.

    With ``wanted`` those among the last ``look_at`` (at most 5,000) that it takes. Fewer come where
    the topic has gaps, or when the time (6 s) was not enough.
    """
    count = min(count, most)
    look_at = max(count, min(look_at, MAX_LOOKED_AT))
    filled = {number: each for number, each in bounds.items() if each[0] < each[1]}
    share = max(1, look_at // max(1, len(filled)))
    starts = {number: max(first, end - share) for number, (first, end) in filled.items()}
    found = Found()
    looked_at = _looked_at(topic, dict(sorted(starts.items())[:look_at]), share, found)
    found.messages = nlargest(count, filter(wanted, looked_at), key=_age_order)
    return found


def messages_from(
    topic: NamedTopic,
    starts: Mapping[int, int],
    count: int,
    *,
    look_at: int = 0,
    wanted: Callable[[Read], bool] = bool,
) -> Found:
    """Return the first messages from an offset of each partition on, ``count`` (at most 50) over
    all of them and at least one each; the oldest first. Raises BrokerUnavailable.

    With ``wanted`` those that it takes among the first ``look_at`` (at most 5,000).
    """
    count = min(count, MAX_MESSAGES)
    look_at = max(count, min(look_at, MAX_LOOKED_AT))
    share = max(1, look_at // max(1, len(starts)))
    found = Found()
    for read in _looked_at(topic, dict(sorted(starts.items())[:look_at]), share, found):
        if wanted(read):
            found.messages.append(read)
            if len(found.messages) == count:
                break
    found.messages.sort(key=_age_order)
    return found


def _age_order(read: Read) -> tuple[int, int]:
    return read.timestamp_ms or 0, read.offset


def _looked_at(
    topic: NamedTopic, starts: Mapping[int, int], share: int, found: Found
) -> Iterator[Read]:
    """Yield up to ``share`` messages of each partition, and note in ``found`` how far that came.
    Raises BrokerUnavailable."""
    if not starts:
        return
    with _reading(topic) as settings:
        consumer = ck.Consumer({**settings, **FETCH})
        try:
            consumer.assign([ck.TopicPartition(topic.topic, *place) for place in starts.items()])
            yield from _until_the_end(consumer, topic.topic, set(starts), share, found)
        finally:
            consumer.close()


def _until_the_end(
    consumer: ck.Consumer, topic: str, open_yet: set[int], share: int, found: Found
) -> Iterator[Read]:
    deadline, taken, read_bytes = Deadline(READ_SECONDS), Counter[int](), 0
    while open_yet:
        message = consumer.poll(deadline.remaining_seconds())
        if message is None or read_bytes > MAX_LOOKED_AT_BYTES or not deadline.remaining_seconds():
            found.is_cut = True
            return
        number = message.partition()
        if (error := message.error()) is None:
            if number not in open_yet:
                continue
            read = _read(message)
            found.looked_at += 1
            found.next_offsets[number] = read.offset + 1
            read_bytes += len(read.value or b"") + len(read.key or b"")
            taken[number] += 1
            if taken[number] == share:
                open_yet.discard(number)
                consumer.pause([ck.TopicPartition(topic, number)])
            yield read
        elif error.code() == ck.KafkaError._PARTITION_EOF:
            open_yet.discard(number)
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
