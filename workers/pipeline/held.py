"""Messages of a partition of the retry topic, until they are due."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from domain.deferral import Deferral
from domain.holding import HeldBytes, Holding
from domain.settled import MOST_RANGES
from workers.consumer.ownership import PauseReason
from workers.pipeline.life_cycle import LiveMessage, MessageState

if TYPE_CHECKING:
    from workers.pipeline.partition import PartitionWorker

MOST_STRETCHES = MOST_RANGES // 2
"""With more of them the partition rests: as many again may come of what was fetched by then."""
LONGEST_SLEEP_SECONDS = 30.0
"""When the clock is looked at again, however far away the next due time is."""


class HeldMessages:
    """One per partition of the retry topic and epoch. What it holds is not charged to the budget
    that bounds intake, but to an account of its own; while that is full its partition rests."""

    def __init__(self, partition: PartitionWorker, account: HeldBytes) -> None:
        self._partition = partition
        self._tools = partition.tools
        self._holding: Holding[LiveMessage] = Holding(account)
        self._is_full = self._is_crowded = False
        self._alarm: asyncio.TimerHandle | None = None

    def takes(self, message: LiveMessage) -> bool:
        """Hold a message that was just handed over; False: it waits for nothing, for it is another
        cluster's, or none that a worker wrote."""
        try:
            deferral = Deferral.of(message.record)
        except ValueError:
            return False
        if deferral.origin.cluster != self._tools.cluster:
            return False
        message.deferral, message.state = deferral, MessageState.HELD
        self._holding.add(message, deferral.origin, deferral.due_at, message.size_bytes)
        return True

    def release(self) -> None:
        """Let go of what is due, as much as the partition's share of the budget takes."""
        self._cancel_alarm()
        now, claim = self._tools.clock.wall(), self._partition.claim
        is_over = self._tools.budget.is_over_share(claim)
        while not is_over and (message := self._holding.take(now)) is not None:
            self._partition.take_due(message)
            is_over = self._tools.budget.is_over_share(claim)
        due_at = self._holding.next_due_at
        if due_at is not None and not is_over:
            rest = min(max(0.0, due_at - now), LONGEST_SLEEP_SECONDS)
            self._alarm = asyncio.get_running_loop().call_later(rest, self._partition.release_due)
        self._partition.publish()
        self._rest_or_go_on()

    def note_stretches(self, count: int) -> None:
        """Rest while what is done above the commit stands in so many stretches between what is held
        that they would soon find no room in the commit metadata: an heir would do it again."""
        self._is_crowded = count > MOST_STRETCHES
        self._rest_or_go_on()

    def _rest_or_go_on(self) -> None:
        is_full = self._holding.is_full or self._is_crowded
        if self._is_full is not is_full:
            self._is_full = is_full
            self._partition.set_pause(PauseReason.HELD, is_full)
            self._tools.board.rests += 1

    def settled(self, message: LiveMessage) -> None:
        """A message that was let go has its fate."""
        if message.deferral is not None:
            self._holding.settled(message.deferral.origin)

    def close(self) -> None:
        """The epoch ended."""
        self._cancel_alarm()
        self._holding.close()

    def _cancel_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    @property
    def count(self) -> int:
        """Number of messages held."""
        return self._holding.count
