"""Reads records of a topic by their places, without joining a group."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import closing
from itertools import groupby
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
NEAR_OFFSETS = 200
"""As far ahead a reader reads on rather than seeks."""


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


def read_records(
    topic: str,
    places: Collection[tuple[int, int]],
    *,
    brokers: str,
    client: dict[str, Any],
    timeout_seconds: float,
) -> dict[tuple[int, int], Message | None]:
    """Return the record at each place ``(partition, offset)``; None when the topic does not hold it
    any more. One client reads them, in the order of their places.

    Raises TransientError or ConfigError.
    """
    settings = {"log_level": 3, **client, **OWN, "bootstrap.servers": brokers}
    found: dict[tuple[int, int], Message | None] = {}
    try:
        with closing(_consumer(settings, topic)) as consumer:
            for partition, group in groupby(sorted(set(places)), key=lambda place: place[0]):
                offsets = [offset for _, offset in group]
                for offset, record in _read_many(
                    consumer, topic, partition, offsets, timeout_seconds
                ):
                    found[partition, offset] = record
    except KafkaException as exc:
        raise translate(exc.args[0], topic) from exc
    for partition, offset in sorted(set(places) - set(found)):  # at the end: looked at one by one
        found[partition, offset] = read_record(
            topic, partition, offset,
            brokers=brokers, client=client, timeout_seconds=timeout_seconds,
        )  # fmt: skip
    return found


def _read_many(
    consumer: Consumer, topic: str, partition: int, offsets: list[int], timeout_seconds: float
) -> Iterator[tuple[int, Message | None]]:
    """Each ascending offset with its record; those from the end of the partition on are left out.

    What lies near is read on to, what lies far is sought.
    """
    first, end = consumer.get_watermark_offsets(
        TopicPartition(topic, partition), timeout=timeout_seconds
    )
    latest: Message | None = None
    position = -1
    for offset in offsets:
        if offset < first:
            yield offset, None
            continue
        if offset >= end:
            return
        if position <= offset - NEAR_OFFSETS or latest is None:
            consumer.assign([TopicPartition(topic, partition, offset)])
            position, latest = offset, None
        while position <= offset:
            latest = consumer.poll(timeout_seconds)
            if latest is None:
                raise TransientError(
                    f"topic {topic}: {partition}:{offset} was not read in {timeout_seconds:g} s"
                )
            if (error := latest.error()) is not None:
                if error.code() == KafkaError._PARTITION_EOF:
                    return
                raise KafkaException(error)
            position = (latest.offset() or 0) + 1
        yield offset, latest if _is_at(latest, offset) else None


def _is_at(message: Message | None, offset: int) -> bool:
    return message is not None and message.offset() == offset


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
