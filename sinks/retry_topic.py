"""Writes to the retry topic of a cluster: messages of which some tasks run again later."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from domain.deferral import Deferral
from domain.message import Record
from domain.parking import ParkingCause
from sinks.record_writer import (
    KafkaRecordTopic,
    RecordHold,
    RecordReceipt,
    RecordTopic,
    RecordWriter,
    Trouble,
)

TROUBLE = Trouble(
    thread="deferrals",
    what="the retry topic takes no message",
    refused=ParkingCause.RETRY_TOPIC,
)


class RetryTopicWriter:
    """Writes deferred messages on a thread of its own.

    ``on_hold`` is called on the loop when a partition begins or ceases to wait for one.
    """

    def __init__(
        self,
        topic: str,
        make_topic: Callable[[], RecordTopic],
        *,
        on_hold: Callable[[RecordHold], None],
    ) -> None:
        self.topic = topic
        self._writer = RecordWriter(make_topic, TROUBLE, on_hold=on_hold)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to serve; nothing is connected before the first message."""
        self._writer.start(loop)

    async def write(self, record: Record, deferral: Deferral) -> RecordReceipt:
        """Write a message, however long it takes. Cancelled: it may or may not have been written.
        Raises TooLarge."""
        headers = deferral.headers(record, self.topic)
        return await self._writer.write(record, lambda: [headers])

    def hasten(self) -> None:
        """Try the topic again soon: an epoch that ends cannot wait as long as the writer rests."""
        self._writer.hasten()

    def close(self, timeout_seconds: float) -> bool:
        """End the thread; messages that still wait stay unwritten, their offsets do not pass."""
        return self._writer.close(timeout_seconds)


def kafka_retries(topic: str, *, brokers: str, client: dict[str, Any]) -> Callable[[], RecordTopic]:
    """Makes the retry topic of a cluster, which lies on the source's brokers."""
    return lambda: KafkaRecordTopic(topic=topic, brokers=brokers, client=client)
