"""How far a consumer group is behind, asked from outside: for groups without a live worker."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import confluent_kafka as ck
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    OffsetSpec,
)

from workers.broker.base import BrokerUnavailable
from workers.config import KafkaConfig

REQUEST_SECONDS = 5.0


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
    committed = _committed(settings, kafka.group, parts)
    ends = _offsets(client, parts, OffsetSpec.latest())  # type: ignore[no-untyped-call]
    begins = _offsets(client, parts, OffsetSpec.earliest())  # type: ignore[no-untyped-call]
    starts = ends if kafka.start_at == "latest" else begins
    return sum(
        max(0, end - max(committed.get(number, starts[number]), begins[number]))
        for number, end in ends.items()
    )


def _committed(settings: Mapping[str, Any], group: str, parts: list[Any]) -> dict[int, int]:
    # Not AdminClient.list_consumer_group_offsets: librdkafka 2.16 crashes there while the group
    # has no coordinator yet (librdkafka issue 5040). A consumer that never subscribes only asks.
    consumer = ck.Consumer({**settings, "group.id": group, "enable.auto.commit": False})
    try:
        found = consumer.committed(parts, timeout=REQUEST_SECONDS)
    finally:
        consumer.close()
    return {one.partition: one.offset for one in found if one.offset >= 0}


def _offsets(client: AdminClient, parts: list[Any], spec: Any) -> dict[int, int]:
    asked = client.list_offsets(dict.fromkeys(parts, spec), request_timeout=REQUEST_SECONDS)
    return {part.partition: future.result().offset for part, future in asked.items()}
