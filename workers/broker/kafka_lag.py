"""Lag of a consumer group, asked from outside: for groups without a live worker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import confluent_kafka as ck
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    OffsetSpec,
)

from workers.broker.base import BrokerUnavailable
from workers.broker.kafka_records import isolation_of
from workers.config import KafkaConfig

REQUEST_SECONDS = 5.0
Bounds = tuple[int, int]
"""A partition's first offset and its next one."""


def group_lag(kafka: KafkaConfig, retry_topic: str | None = None) -> int:
    """Messages of the source, and of the retry topic if there is one, that the group has not
    committed yet. Blocks up to 20 s for each.

    A group without any commit counts nothing with ``start_at: latest``. Raises BrokerUnavailable
    when Kafka does not answer or does not know the topic.
    """
    settings: dict[str, Any] = {
        "log_level": 0, **kafka.client, "bootstrap.servers": kafka.brokers,
    }  # fmt: skip
    client = AdminClient(settings)
    try:
        lag = _lag(client, settings, kafka)
        if retry_topic is not None:
            update = {"topic": retry_topic, "start_at": "earliest"}
            lag += _lag(client, settings, kafka.model_copy(update=update))
        return lag
    except ck.KafkaException as exc:
        raise BrokerUnavailable(f"{kafka.topic}: {exc}") from exc


def _lag(client: AdminClient, settings: Mapping[str, Any], kafka: KafkaConfig) -> int:
    metadata = client.list_topics(kafka.topic, timeout=REQUEST_SECONDS).topics[kafka.topic]
    if metadata.error is not None:
        raise ck.KafkaException(metadata.error)
    parts = [ck.TopicPartition(kafka.topic, number) for number in metadata.partitions]
    committed = committed_offsets(settings, kafka.group, parts)
    found = watermarks(client, parts, isolation_of(kafka.client))
    bounds = {number: each for (_, number), each in found.items()}
    return sum(behind(bounds, committed, kafka.start_at).values())


def behind(
    bounds: Mapping[int, Bounds], committed: Mapping[int, int], start_at: str
) -> dict[int, int]:
    """Messages of each partition that a group has not committed.

    A group without any commit begins where ``start_at`` says; a partition without one in a group
    that has some begins with its first message.
    """
    is_at_end = start_at == "latest" and not committed
    return {
        number: max(0, end - max(committed.get(number, end if is_at_end else first), first))
        for number, (first, end) in bounds.items()
    }


def committed_offsets(
    settings: Mapping[str, Any], group: str, parts: Sequence[Any]
) -> dict[int, int]:
    """Return the next offset of each partition with a commit. Raises KafkaException."""
    # Not AdminClient.list_consumer_group_offsets: librdkafka 2.16 crashes there while the group
    # has no coordinator yet (librdkafka issue 5040). A consumer that never subscribes only asks.
    consumer = ck.Consumer({**settings, "group.id": group, "enable.auto.commit": False})
    try:
        found = consumer.committed(list(parts), timeout=REQUEST_SECONDS)
    finally:
        consumer.close()
    return {one.partition: one.offset for one in found if one.offset >= 0}


def watermarks(
    client: AdminClient,
    parts: Sequence[Any],
    isolation: ck.IsolationLevel = ck.IsolationLevel.READ_COMMITTED,
) -> dict[tuple[str, int], Bounds]:
    """First and next offset of each topic and partition, open transactions left out where
    ``isolation`` says so. Raises KafkaException."""
    begins = _offsets(client, parts, OffsetSpec.earliest(), isolation)  # type: ignore[no-untyped-call]
    ends = _offsets(client, parts, OffsetSpec.latest(), isolation)  # type: ignore[no-untyped-call]
    return {place: (begins[place], end) for place, end in ends.items()}


def first_at(
    client: AdminClient, part: Any, timestamp_ms: int, isolation: ck.IsolationLevel
) -> int | None:
    """Return the offset of the first message at or after a time; None if there is none. Raises
    KafkaException."""
    return firsts_at(client, [part], timestamp_ms, isolation)[part.partition]


def firsts_at(
    client: AdminClient, parts: Sequence[Any], timestamp_ms: int, isolation: ck.IsolationLevel
) -> dict[int, int | None]:
    """Return the same for each of several partitions of a topic, by number."""
    found = _offsets(client, parts, OffsetSpec.for_timestamp(timestamp_ms), isolation)
    return {number: offset if offset >= 0 else None for (_, number), offset in found.items()}


def _offsets(
    client: AdminClient, parts: Sequence[Any], spec: Any, isolation: ck.IsolationLevel
) -> dict[tuple[str, int], int]:
    asked = client.list_offsets(
        dict.fromkeys(parts, spec), isolation_level=isolation, request_timeout=REQUEST_SECONDS
    )
    return {(part.topic, part.partition): future.result().offset for part, future in asked.items()}
