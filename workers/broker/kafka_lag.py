"""How far a consumer group is behind, asked from outside: for groups without a live worker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import confluent_kafka as ck
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    OffsetSpec,
)

from workers.broker.base import BrokerUnavailable
from workers.config import KafkaConfig

REQUEST_SECONDS = 5.0
Bounds = tuple[int, int]
"""A partition's first offset and its next one."""


def group_lag(kafka: KafkaConfig) -> int:
    """Messages of the topic that the group has not committed yet. Blocks up to 20 s.

    A partition without a commit counts from its first offset, or not at all with ``start_at:
    latest``. Raises BrokerUnavailable when Kafka does not answer or does not know the topic.
    """
    settings: dict[str, Any] = {
        "log_level": 0, **kafka.client, "bootstrap.servers": kafka.brokers,
    }  # fmt: skip
    client = AdminClient(settings)
    try:
        return _lag(client, settings, kafka)
    except ck.KafkaException as exc:
        raise BrokerUnavailable(f"{kafka.topic}: {exc}") from exc


def _lag(client: AdminClient, settings: Mapping[str, Any], kafka: KafkaConfig) -> int:
    metadata = client.list_topics(kafka.topic, timeout=REQUEST_SECONDS).topics[kafka.topic]
    if metadata.error is not None:
        raise ck.KafkaException(metadata.error)
    parts = [ck.TopicPartition(kafka.topic, number) for number in metadata.partitions]
    committed = committed_offsets(settings, kafka.group, parts)
    found = watermarks(client, parts)
    return sum(
        behind(bounds, committed.get(number), kafka.start_at)
        for (_, number), bounds in found.items()
    )


def behind(bounds: Bounds, committed: int | None, start_at: str) -> int:
    """Messages of a partition that a group has not committed. Without a commit it begins where
    ``start_at`` says."""
    first, end = bounds
    start = end if start_at == "latest" else first
    return max(0, end - max(start if committed is None else committed, first))


def committed_offsets(
    settings: Mapping[str, Any], group: str, parts: Sequence[Any]
) -> dict[int, int]:
    """The next offset of each partition with a commit. Raises KafkaException."""
    # Not AdminClient.list_consumer_group_offsets: librdkafka 2.16 crashes there while the group
    # has no coordinator yet (librdkafka issue 5040). A consumer that never subscribes only asks.
    consumer = ck.Consumer({**settings, "group.id": group, "enable.auto.commit": False})
    try:
        found = consumer.committed(list(parts), timeout=REQUEST_SECONDS)
    finally:
        consumer.close()
    return {one.partition: one.offset for one in found if one.offset >= 0}


def watermarks(client: AdminClient, parts: Sequence[Any]) -> dict[tuple[str, int], Bounds]:
    """First and next offset of each topic and partition. Raises KafkaException."""
    begins = _offsets(client, parts, OffsetSpec.earliest())  # type: ignore[no-untyped-call]
    ends = _offsets(client, parts, OffsetSpec.latest())  # type: ignore[no-untyped-call]
    return {place: (begins[place], end) for place, end in ends.items()}


def _offsets(client: AdminClient, parts: Sequence[Any], spec: Any) -> dict[tuple[str, int], int]:
    asked = client.list_offsets(dict.fromkeys(parts, spec), request_timeout=REQUEST_SECONDS)
    return {(part.topic, part.partition): future.result().offset for part, future in asked.items()}
