"""Creates topics. A broker that cannot (the mock) is content when they are there already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

REQUEST_SECONDS = 10.0


class TopicsRefused(Exception):
    """A topic is not there and cannot be made, or has too few partitions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ensured:
    """A topic that is there: whether it was made now, and its partitions."""

    topic: str
    is_new: bool
    partitions: int


def ensure_topics(
    brokers: str,
    client: Mapping[str, Any],
    topics: Sequence[str],
    *,
    partitions: int,
    replication: int,
) -> list[Ensured]:
    """Have these topics with at least so many partitions. Raises TopicsRefused.

    A topic with fewer partitions is left as it is: adding some moves keys to other partitions.
    """
    admin = AdminClient({**client, "bootstrap.servers": brokers, "log_level": 0})
    try:
        found = _partitions(admin)
        missing = [topic for topic in topics if topic not in found]
        made = _create(admin, missing, partitions, replication)
    except KafkaException as exc:
        raise TopicsRefused(f"{brokers}: {exc.args[0].str()}") from exc
    few = [topic for topic in topics if topic not in made and found[topic] < partitions]
    if few:
        counts = ", ".join(f"{topic} has {found[topic]}" for topic in few)
        raise TopicsRefused(f"expected {partitions} partitions or more, but {counts}")
    return [
        Ensured(topic=topic, is_new=topic in made, partitions=found.get(topic, partitions))
        for topic in topics
    ]


def _partitions(admin: AdminClient) -> dict[str, int]:
    listed = admin.list_topics(timeout=REQUEST_SECONDS).topics
    return {name: len(one.partitions) for name, one in listed.items() if one.error is None}


def _create(
    admin: AdminClient, topics: Sequence[str], partitions: int, replication: int
) -> frozenset[str]:
    if not topics:
        return frozenset()
    wanted = [NewTopic(topic, partitions, replication) for topic in topics]
    refused = []
    for topic, future in admin.create_topics(wanted, request_timeout=REQUEST_SECONDS).items():
        try:
            future.result()
        except KafkaException as exc:
            error = exc.args[0]
            if error.code() != KafkaError.TOPIC_ALREADY_EXISTS:
                refused.append(f"{topic}: {error.str()}")
    if refused:
        raise TopicsRefused("; ".join(refused))
    return frozenset(topics)
