"""Dead letters: the original record byte for byte, and headers that say why it is here.

A letter is written or waits: ``write`` returns only when the topic has it (law 5). A topic
that takes nothing holds every letter; one letter too large is set aside and holds its partition.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from domain.deferral import first_life
from domain.failure import DeadLetterCause
from domain.message import Record
from domain.parking import ParkingCause
from sinks.config import DeadLettersConfig
from sinks.letter import LetterStamp, letter_headers
from sinks.record_writer import (
    ASIDE_SECONDS,
    Headers,
    KafkaRecordTopic,
    RecordHold,
    RecordReceipt,
    RecordTopic,
    RecordWriter,
    Trouble,
)

LIGHTER = ("drakkar-payload", "drakkar-traceback")
"""Headers that a letter too large for the topic loses, in this order."""
TROUBLE = Trouble(
    thread="dead-letters",
    what="the dead-letter topic takes no letter",
    refused=ParkingCause.DEAD_LETTERS,
    too_large=ParkingCause.DEAD_LETTER_TOO_LARGE,
)


class DeadLetterWriter:
    """Writes letters one after the other on a thread of its own; the happy path never comes here.

    ``on_hold`` is called on the loop when a partition begins or ceases to wait for a letter.
    """

    def __init__(
        self,
        topic: Callable[[], RecordTopic],
        stamp: LetterStamp,
        *,
        wall: Callable[[], float],
        on_hold: Callable[[RecordHold], None],
        aside_seconds: float = ASIDE_SECONDS,
    ) -> None:
        self._stamp = stamp
        self._wall = wall
        self._writer = RecordWriter(topic, TROUBLE, on_hold=on_hold, aside_seconds=aside_seconds)

    @property
    def cluster(self) -> str:
        """Whose letters these are."""
        return self._stamp.cluster

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to serve; nothing is connected before the first letter."""
        self._writer.start(loop)

    async def write(self, record: Record, cause: DeadLetterCause) -> RecordReceipt:
        """Write a letter, however long it takes. Cancelled: it may or may not have been written."""
        return await self._writer.write(record, partial(self._forms, record, cause))

    def _forms(self, record: Record, cause: DeadLetterCause) -> Iterator[Headers]:
        """Return the headers of a letter, each time as much lighter as can be. That of a deferred
        message is its first life's: to that topic it is replayed."""
        record = first_life(record)
        headers = letter_headers(record, cause, self._stamp, self._wall())
        for dropped in range(len(LIGHTER) + 1):
            yield [
                header
                for place, header in enumerate(headers)
                if place < len(record.headers) or header[0] not in LIGHTER[:dropped]
            ]

    def hasten(self) -> None:
        """Try the topic again soon: an epoch that ends cannot wait as long as the writer rests."""
        self._writer.hasten()

    def close(self, timeout_seconds: float) -> bool:
        """End the thread; letters that still wait stay unwritten, their offsets do not pass."""
        return self._writer.close(timeout_seconds)


def kafka_letters(
    config: DeadLettersConfig, *, topic: str, brokers: str, client: dict[str, Any]
) -> Callable[[], RecordTopic]:
    """Makes the letter topic of a cluster; ``brokers`` and ``client`` are the source's."""
    own_client = client if config.brokers is None else {}
    return lambda: KafkaRecordTopic(
        topic=topic, brokers=config.brokers or brokers, client={**own_client, **config.client}
    )
