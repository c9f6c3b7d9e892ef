"""What one partition of one epoch tells, in the words of ``domain.events``."""

from __future__ import annotations

from typing import Any

from domain.events import (
    Arranged,
    Collected,
    Consumed,
    Event,
    Lost,
    MessageCompleted,
    Parked,
    Paused,
    Resumed,
    Revoked,
    Stalled,
    Tell,
    Unparked,
)
from domain.fate import Fate
from domain.message import Record
from domain.parking import ParkingCause
from workers.clock import Clock
from workers.consumer.ownership import Claim, PauseReason
from workers.pipeline.partition_state import MessageState


class PartitionTeller:
    """Bound to a claim; each method tells one event."""

    __slots__ = ("_claim", "_clock", "_tell")

    def __init__(self, claim: Claim, clock: Clock, tell: Tell) -> None:
        self._claim = claim
        self._clock = clock
        self._tell = tell

    def _place(self) -> dict[str, Any]:
        claim = self._claim
        return {"at": self._clock.wall(), "topic": claim.topic, "partition": claim.partition}

    def consumed(self, record: Record, size_bytes: int, at: float) -> None:
        """A record was handed over."""
        self._tell(
            Consumed(
                at=at,
                topic=record.topic,
                partition=record.partition,
                offset=record.offset,
                timestamp=record.timestamp,
                size_bytes=size_bytes,
            )
        )

    def stalled(self, position: int, end_offset: int) -> None:
        """Nothing is read though there is more."""
        self._tell(Stalled(**self._place(), offset=position, end_offset=end_offset))

    def paused(self, reason: PauseReason, is_paused: bool) -> None:
        """Somebody paused fetching, or let it go on."""
        event: Event = (Paused if is_paused else Resumed)(**self._place(), reason=reason.value)
        self._tell(event)

    def arranged(
        self, state: MessageState, labels: dict[str, str], seconds: float, batch_messages: int
    ) -> None:
        """A message has its tasks."""
        self._tell(
            Arranged(
                **self._place(),
                offset=state.record.offset,
                task_ids=sorted(state.tasks),
                labels=labels,
                duration_ms=seconds * 1000.0,
                batch_messages=batch_messages,
            )
        )

    def collected(self, record: Record, hook: str, payloads: int, seconds: float) -> None:
        """A completion hook gave payloads."""
        self._tell(
            Collected(
                **self._place(),
                offset=record.offset,
                task_id=None,
                hook=hook,
                payloads=payloads,
                duration_ms=seconds * 1000.0,
            )
        )

    def completed(self, state: MessageState, fate: Fate) -> None:
        """A message has its fate."""
        now, claim = self._clock.now(), self._claim
        self._tell(
            MessageCompleted(
                at=self._clock.wall_at(now),
                topic=claim.topic,
                partition=claim.partition,
                offset=state.record.offset,
                fate=fate.value,
                duration_ms=(now - state.handed_at) * 1000.0,
                reason=state.reason,
            )
        )

    def parked(self, offset: int | None, cause: ParkingCause, detail: str) -> None:
        """The partition waits because of an error that is not its messages' fault."""
        is_retried = cause.handling.is_retried
        self._tell(
            Parked(
                **self._place(), offset=offset, cause=cause, detail=detail, is_retried=is_retried
            )
        )

    def unparked(self, cause: ParkingCause, reason: str) -> None:
        """A cause is gone."""
        self._tell(Unparked(**self._place(), cause=cause, reason=reason))

    def revoked(
        self, watermark: int | None, reason: str, dropped: int, seconds: float, *, is_clean: bool
    ) -> None:
        """The epoch was ended by us."""
        self._tell(
            Revoked(
                **self._place(),
                offset=watermark,
                epoch=self._claim.epoch,
                reason=reason,
                dropped_messages=dropped,
                clean=is_clean,
                duration_ms=seconds * 1000.0,
            )
        )

    def lost(self, dropped: int) -> None:
        """The epoch ended without us."""
        self._tell(Lost(**self._place(), epoch=self._claim.epoch, dropped_messages=dropped))
