"""Place of a worker in its consumer group: one consumer after the other, each with its thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import assert_never

from domain.parking import ParkingCause
from workers.broker.base import Start, TopicPartition, Watermarks
from workers.consumer.moves import Move
from workers.consumer.ownership import Claim, PartitionFigures
from workers.consumer.signals import (
    CommitRefused,
    ConsumerClosed,
    ConsumerFailed,
    ConsumerSignal,
    DeathsTakenBack,
    EndRequest,
    EpochsBegun,
    EpochsLost,
    FetchStalled,
    GroupJoined,
    NoteCommitted,
    NothingAssigned,
    OffsetMissing,
    OffsetsCommitted,
    Post,
    RecordsFetched,
    WaitingFor,
)
from workers.consumer.thread import ConsumerThread
from workers.log import log
from workers.pipeline.epochs import Epochs

TO_JOIN = "the consumer group to join"
CLOSING_SECONDS = 1.0
"""Seconds beyond its budget that a consumer is waited for."""


class Membership:
    """Joins, leaves, and acts on what the consumer thread tells. Loop thread only, but ``post``."""

    def __init__(
        self,
        group: str,
        make_consumer_thread: Callable[[Post], ConsumerThread],
        *,
        epochs: Epochs,
        loop: asyncio.AbstractEventLoop,
        fail: Callable[[BaseException], None],
    ) -> None:
        self._group = group
        self._make_consumer_thread = make_consumer_thread
        self._epochs = epochs
        self._loop = loop
        self._fail = fail
        self._consumer_thread: ConsumerThread | None = None
        self._has_closed = asyncio.Event()
        self.has_left = False
        """Whether it left the group by an order, and is up."""
        self.waits_for: str | None = TO_JOIN
        self.alarm: str | None = None
        """In words, of a member that is given nothing: that keeps no worker from being ready."""

    def join(self) -> None:
        """Become a member, with a new consumer."""
        self._has_closed.clear()
        self._consumer_thread = self._make_consumer_thread(self.post)
        self._consumer_thread.start()

    async def close(self, budget_seconds: float) -> bool:
        """End the epochs and close the consumer; False when it took longer than the budget, or
        the group did not answer the last commit."""
        assert self._consumer_thread is not None
        self._consumer_thread.request_stop(budget_seconds)
        try:
            async with asyncio.timeout(budget_seconds + CLOSING_SECONDS):
                await self._has_closed.wait()
        except TimeoutError:
            log.warning("kafka_did_not_close", detail="the drain budget is used up")
            return False
        if not self._consumer_thread.has_committed:
            log.warning(
                "last_commit_unanswered",
                detail="the next owner may do again what ended since the commit before",
            )
        return self._consumer_thread.has_committed

    async def leave(self, budget_seconds: float) -> bool:
        """Close the consumer as ``close`` does, to ``rejoin`` some time."""
        is_closed = await self.close(budget_seconds)
        self.has_left = True
        self.waits_for = "an operator to have it join again (resume_intake)"
        return is_closed

    def rejoin(self) -> None:
        """Join the group again after ``leave``."""
        self.has_left = False
        self.waits_for = TO_JOIN
        self.join()

    @property
    def is_leaving(self) -> bool:
        """Tell whether the consumer that left has not closed yet: none may follow it before."""
        return self.has_left and not self._has_closed.is_set()

    def kill(self) -> None:
        """End the consumer at once."""
        if self._consumer_thread is not None:
            self._consumer_thread.kill()

    def restart(self, claim: Claim, start: Start) -> None:
        """End the epoch of a partition and begin another from there."""
        assert self._consumer_thread is not None
        self._consumer_thread.restart(claim, start)

    async def move(self, move: Move) -> str:
        """Have the consumer thread move a commit; empty when it did, else why not."""
        assert self._consumer_thread is not None
        self._consumer_thread.move(move)
        return await asyncio.wrap_future(move.answer)

    async def bounds(self, key: TopicPartition) -> Watermarks:
        """Ask for the first offset and the end of a partition. Raises BrokerError."""
        assert self._consumer_thread is not None
        return await asyncio.to_thread(self._consumer_thread.bounds, key)

    async def offset_at(self, key: TopicPartition, timestamp_ms: int) -> int:
        """Ask for the first message at or after a time, or the end. Raises BrokerError."""
        assert self._consumer_thread is not None
        return await asyncio.to_thread(self._consumer_thread.offset_at, key, timestamp_ms)

    def figures(self) -> Mapping[Claim, PartitionFigures]:
        """Return what the consumer thread knows of its partitions."""
        return self._consumer_thread.figures() if self._consumer_thread is not None else {}

    # -- what the consumer thread tells --------------------------------------------------------

    def post(self, signal: ConsumerSignal) -> None:
        """Have the loop ``receive`` it, in order; nothing once the loop is closed. Any thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.receive, signal)

    def receive(self, signal: ConsumerSignal) -> None:
        """Act on a signal; those of an ended epoch find no partition."""
        epochs = self._epochs
        match signal:
            case RecordsFetched(records):
                epochs.handed_over(records)
            case OffsetsCommitted(offsets):
                epochs.committed(offsets)
            case NoteCommitted(claim, number):
                if claim in epochs.partitions:
                    epochs.partitions[claim].guard.noted(number)
            case CommitRefused(code, detail):
                epochs.commit_failed(code, detail)
            case EpochsBegun(assignments):
                epochs.assigned(assignments)
            case EndRequest():
                epochs.ending(signal)
            case EpochsLost(claims):
                epochs.lost(claims)
            case DeathsTakenBack(claim, metadata):
                if claim in epochs.partitions:
                    epochs.partitions[claim].absolved(metadata)
            case FetchStalled(claim, position, end_offset):
                if claim in epochs.partitions:
                    epochs.partitions[claim].stalled(position, end_offset)
            case OffsetMissing(claim, detail):
                if claim in epochs.partitions:
                    epochs.partitions[claim].park(ParkingCause.OFFSET_OUT_OF_RANGE, detail)
            case GroupJoined(protocol):
                self.waits_for = None
                log.info("joined", group=self._group, protocol=protocol)
            case WaitingFor(detail):
                self.waits_for = detail
            case NothingAssigned(detail):
                self.alarm = None if detail is None else f"kafka: {detail}"
            case ConsumerClosed():
                self._has_closed.set()
            case ConsumerFailed(error):
                self._fail(error)
            case _:
                assert_never(signal)
