"""Between confluent-kafka's objects and ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import confluent_kafka as ck

from domain.message import Message, Record
from sinks.record_headers import record_headers
from workers.broker.base import CommitOutcome, TopicPartition
from workers.broker.kafka_errors import translate


def key_of(item: ck.TopicPartition) -> TopicPartition:
    """Return the partition an item is about."""
    return TopicPartition(item.topic, item.partition)


def keys_of(items: Sequence[ck.TopicPartition]) -> list[TopicPartition]:
    """Return the partitions of many items."""
    return [key_of(item) for item in items]


def bare(keys: Sequence[TopicPartition]) -> list[ck.TopicPartition]:
    """Partitions as the client takes them, without offsets."""
    return [ck.TopicPartition(*key) for key in keys]


def partition_of(message: ck.Message) -> int:
    """A message's partition; -1 where it has none."""
    partition = message.partition()
    return -1 if partition is None else int(partition)


def outcome_of(item: ck.TopicPartition, error: ck.KafkaError | None) -> CommitOutcome:
    """Return the answer to one partition of a commit."""
    failed = item.error or error
    return CommitOutcome(
        topic_partition=key_of(item),
        next_offset=item.offset if item.offset >= 0 else None,
        metadata=item.metadata or "",
        error=translate(failed, item.topic, item.partition) if failed else None,
    )


def record_of(message: Any) -> Record:
    """A message of the client as a record."""
    return Message(
        topic=message.topic(),
        partition=message.partition(),
        offset=message.offset(),
        key=message.key(),
        value=message.value(),
        headers=record_headers(message),
        timestamp=message.timestamp()[1],
        payload=None,
    )


def isolation_of(client: Mapping[str, Any]) -> ck.IsolationLevel:
    """Return which end offsets count for a client with these options: those that it can reach."""
    if client.get("isolation.level") == "read_uncommitted":
        return ck.IsolationLevel.READ_UNCOMMITTED
    return ck.IsolationLevel.READ_COMMITTED
