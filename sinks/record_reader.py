"""Reads one record of a topic by its place, without joining a group."""

from __future__ import annotations

from contextlib import closing
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from sinks.backends.kafka import translate
from sinks.base import ConfigError, TransientError

OWN = {
    "group.id": "drakkar-reader",
    "enable.auto.commit": False,
    "auto.offset.reset": "error",
    "enable.partition.eof": True,
}
"""A group's name is asked for by the client; nothing is ever committed under it."""


def read_record(
    topic: str,
    partition: int,
    offset: int,
    *,
    brokers: str,
    client: dict[str, Any],
    timeout_seconds: float,
) -> Message | None:
    """Return the record at that place; None when the topic does not hold it any more.

    Raises TransientError or ConfigError.
    """
    settings = {"log_level": 3, **client, **OWN, "bootstrap.servers": brokers}
    place = TopicPartition(topic, partition, offset)
    try:
        with closing(_consumer(settings, topic)) as consumer:
            first, end = consumer.get_watermark_offsets(place, timeout=timeout_seconds)
            if first <= offset < end:
                return _read(consumer, place, timeout_seconds)
        if offset < first:
            return None
        # Beyond the last stable offset there may be what no transaction has settled yet.
        with closing(_consumer({**settings, "isolation.level": "read_uncommitted"}, topic)) as all_:
            if offset < all_.get_watermark_offsets(place, timeout=timeout_seconds)[1]:
                raise _unsettled(place)
    except KafkaException as exc:
        raise translate(exc.args[0], topic) from exc
    return None


def _consumer(settings: dict[str, Any], topic: str) -> Consumer:
    try:
        return Consumer(settings)
    except (KafkaException, TypeError, ValueError) as exc:
        raise ConfigError(f"topic {topic}: client options refused: {exc}") from exc


def _unsettled(place: TopicPartition) -> TransientError:
    return TransientError(
        f"topic {place.topic}: {place.partition}:{place.offset} is in an open transaction"
    )


def _read(consumer: Consumer, place: TopicPartition, timeout_seconds: float) -> Message | None:
    consumer.assign([place])
    found = consumer.poll(timeout_seconds)
    if found is None:
        raise TransientError(
            f"topic {place.topic}: {place.partition}:{place.offset} was not read in "
            f"{timeout_seconds:g} s"
        )
    if (error := found.error()) is not None:
        if error.code() != KafkaError._PARTITION_EOF:
            raise KafkaException(error)
        if (found.offset() or 0) > place.offset:
            return None  # What follows to the end is no message: control records, aborted ones.
        raise _unsettled(place)
    return found if found.offset() == place.offset else None
