"""Rewind and skip of a partition, as operators ask for them: the place found and bounded, the move
made by the consumer thread, and told."""

from __future__ import annotations

from domain.events import Rewound, Skipped, Tell
from workers.broker.base import BrokerError
from workers.clock import Clock
from workers.consumer.moves import Move
from workers.consumer.ownership import Claim
from workers.control import Action, Command, MoveArguments
from workers.runtime.membership import Membership


class NotMoved(Exception):
    """A move that was not made; the text says why."""


class Moving:
    """Moves commits of one worker's partitions. Loop thread only."""

    def __init__(self, membership: Membership, *, clock: Clock, tell: Tell) -> None:
        self._membership = membership
        self._clock = clock
        self._tell = tell

    async def move(self, claim: Claim, command: Command, asked: MoveArguments) -> str:
        """Move the commit of a partition; what was done, in words. Raises NotMoved."""
        is_rewind = command.action is Action.REWIND_PARTITION
        try:
            offset = await self._offset(claim, asked, is_rewind=is_rewind)
        except BrokerError as exc:
            raise NotMoved(f"where the partition begins and ends is unknown: {exc}") from exc
        move = Move(claim=claim, offset=offset, expected=asked.expected)
        if refusal := await self._membership.move(move):
            raise NotMoved(refusal)
        count = abs(offset - asked.expected)
        event = (Rewound if is_rewind else Skipped)(
            at=self._clock.wall(),
            topic=claim.topic,
            partition=claim.partition,
            offset=offset,
            committed=asked.expected,
            offsets=count,
            epoch=claim.epoch,
            request=command.id,
        )
        self._tell(event)
        done = "run again" if is_rewind else "are passed over"
        return f"from {asked.expected} to {offset}: {count} offsets {done}; still paused"

    async def _offset(self, claim: Claim, asked: MoveArguments, *, is_rewind: bool) -> int:
        """Return the offset asked for, within its bounds. Raises NotMoved and BrokerError."""
        key = claim.topic_partition
        low, high = await self._membership.bounds(key)
        offset = asked.offset
        if asked.time is not None:
            offset = await self._membership.offset_at(key, int(asked.time.timestamp() * 1000))
        assert offset is not None
        after = max(low, asked.expected + 1)
        first, last = (low, asked.expected - 1) if is_rewind else (after, high)
        if first <= offset <= last:
            return offset
        if first > last:
            what = "behind the commit to run again" if is_rewind else "ahead of the commit to skip"
            raise NotMoved(f"offset: there is nothing {what}; the topic holds {low} to {high}")
        raise NotMoved(
            f"offset: expected {first} to {last} (committed {asked.expected}, the topic holds "
            f"{low} to {high}), got {offset}"
        )
