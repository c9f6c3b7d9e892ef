"""Stamps payloads with their identity, hands them to their lanes and awaits their outcomes.

All of it runs on the loop thread. A ``DeliveryCall`` is one hook's payloads on their way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from domain.deferral import first_life
from domain.events import (
    BreakerClosed,
    BreakerOpened,
    DeadLettered,
    Delivered,
    DeliveryFailed,
    SinkReconnected,
    Tell,
)
from domain.failure import DeadLetterCause, FailureKind, Stage
from domain.letter import LetterContent
from domain.message import Record
from domain.origin import Origin
from domain.payload import Payload
from domain.trace_context import traceparent_of
from domain.value import value
from sinks.base import Delivery, size_bytes
from sinks.dead_letter import DeadLetterWriter
from sinks.lane import Lane
from sinks.lane_core import BreakerChange, ConnectionDropped
from sinks.lane_queue import Entry, FailedAttempt, Outcome, OutcomeKind


class UnknownSink(LookupError):
    """A payload names a sink that is not configured, or one of another kind."""


@value(frozen=True, slots=True, kw_only=True)
class CallResult:
    """How the payloads of one call ended."""

    delivered: int
    skipped: int
    dead_lettered: int


class Router:
    """One per worker. ``wall`` gives UTC epoch seconds."""

    def __init__(
        self,
        lanes: Mapping[str, Lane],
        dead_letters: DeadLetterWriter,
        *,
        tell: Tell,
        wall: Callable[[], float],
    ) -> None:
        self._lanes = lanes
        self._dead_letters = dead_letters
        self.tell = tell
        self.wall = wall
        for lane in lanes.values():
            lane.listen(self)

    def check(self, payloads: Sequence[Payload]) -> None:
        """Raises UnknownSink naming the known sinks, TypeError for what is not a payload."""
        for payload in payloads:
            if not isinstance(payload, Payload):
                raise TypeError(f"expected payloads, got {type(payload).__name__}")
            lane = self._lanes.get(payload.sink)
            if lane is None:
                known = ", ".join(self._lanes)
                raise UnknownSink(f"sink: expected one of {known}, got {payload.sink!r}")
            if not isinstance(payload, lane.payload):
                expected = lane.payload.__name__
                raise UnknownSink(
                    f"sink {payload.sink}: expected {expected}, got {type(payload).__name__}"
                )

    def start(
        self,
        payloads: Sequence[tuple[Payload, Origin]],
        *,
        record: Record,
        task_id: str | None,
        labels: Mapping[str, str] | None = None,
        others: Sequence[Record] = (),
    ) -> DeliveryCall:
        """A call for these checked payloads; nothing is queued before ``wait``.

        They were made from ``record`` and ``others``, in a task with these ``labels`` if in one.
        Of each payload that is refused ``record`` gets a letter; of the first one, without the
        payload, each of the others does.
        """
        traceparent = traceparent_of(record)
        deliveries = [
            Delivery(
                payload=payload,
                delivery_id=origin.delivery_id(payload.delivery_key),
                topic=record.topic,
                partition=record.partition,
                offset=record.offset,
                task_id=task_id,
                traceparent=traceparent,
            )
            for payload, origin in payloads
        ]
        return DeliveryCall(self, (record, *others), deliveries, task_id, labels)

    def hasten(self, calls: Collection[DeliveryCall]) -> None:
        """Have what these wait for tried again soon."""
        for name in {name for call in calls for name in call.lanes}:
            self._lanes[name].hasten(calls)

    def lane(self, name: str) -> Lane:
        """The lane of a checked sink."""
        return self._lanes[name]

    async def bury(self, record: Record, cause: DeadLetterCause) -> None:
        """Write a dead letter and tell it; returns when the topic has it, however long that
        takes. That of a deferred message is told of its first life, as the letter is."""
        receipt = await self._dead_letters.write(record, cause)
        record = first_life(record)
        self.tell(
            DeadLettered(
                at=self.wall(),
                topic=record.topic,
                partition=record.partition,
                offset=record.offset,
                task_id=cause.task_id or None,
                sink=cause.sink or None,
                stage=cause.stage.value,
                failure=cause.kind.value,
                reason=cause.reason,
                attempts=cause.attempts,
                letter_topic=receipt.topic,
                letter_partition=receipt.partition,
                letter_offset=receipt.offset,
                timestamp=record.timestamp,
                delivery_id=cause.delivery_id,
                content=LetterContent.of(record, self._dead_letters.cluster, cause.labels),
                traceback=cause.traceback,
            )
        )

    def breaker_changed(self, lane: Lane, change: BreakerChange) -> None:
        """A lane's breaker opened or closed."""
        if change.is_open:
            self.tell(
                BreakerOpened(
                    at=self.wall(),
                    sink=lane.name,
                    sink_kind=lane.kind,
                    failures=change.failures,
                    detail=change.detail,
                )
            )
        else:
            self.tell(
                BreakerClosed(
                    at=self.wall(),
                    sink=lane.name,
                    sink_kind=lane.kind,
                    duration_ms=change.open_seconds * 1000.0,
                )
            )

    def connection_dropped(self, lane: Lane, dropped: ConnectionDropped) -> None:
        """A lane gave up a useless connection."""
        self.tell(
            SinkReconnected(
                at=self.wall(),
                sink=lane.name,
                sink_kind=lane.kind,
                duration_ms=dropped.seconds * 1000.0,
                detail=dropped.detail,
            )
        )


async def at_once() -> None:
    """Let letters be written without waiting."""


class DeliveryCall:
    """The payloads of one hook on their way; an ``EntryOwner`` of its lanes."""

    def __init__(
        self,
        router: Router,
        records: Sequence[Record],
        deliveries: Sequence[Delivery],
        task_id: str | None,
        labels: Mapping[str, str] | None,
    ) -> None:
        self.task_id = task_id
        self._labels = labels
        self._router = router
        self._records = records
        self._by_lane: dict[str, list[Entry]] = {}
        self._delivered = self._skipped = 0
        self._refused: list[tuple[Entry, Outcome]] = []
        self._open = len(deliveries)
        self._settled: asyncio.Future[None] | None = None
        self._queued: list[str] = []
        for index, delivery in enumerate(deliveries):
            entry = Entry(delivery, self, index, size_bytes(delivery.payload))
            self._by_lane.setdefault(delivery.payload.sink, []).append(entry)

    @property
    def lanes(self) -> Sequence[str]:
        """The lanes that have its payloads."""
        return self._queued

    @property
    def is_out(self) -> bool:
        """Whether a ``send`` call ever began with one of the payloads."""
        return self._delivered > 0 or any(
            entry.is_started for entries in self._by_lane.values() for entry in entries
        )

    def is_held_up(self, *, by_failures: bool) -> bool:
        """Whether none of it is out and a lane cannot deliver: an operator paused the sink or,
        ``by_failures``, it does not answer."""
        lanes = [self._router.lane(name) for name in self._by_lane]
        is_held_up = any(lane.is_paused or (by_failures and lane.is_away) for lane in lanes)
        return is_held_up and not self.is_out

    def take_back(self) -> bool:
        """Take all payloads out of their lanes; False: one has gone out, and all stay there."""
        taken: list[str] = []
        for name in self._queued:
            if not self._router.lane(name).take_back(self._by_lane[name]):
                self.give_back(taken)
                return False
            taken.append(name)
        return True

    def give_back(self, names: Sequence[str] | None = None) -> None:
        """Queue again what was taken back of these lanes; None: of all."""
        for name in self._queued if names is None else names:
            self._router.lane(name).give_back(self._by_lane[name])

    async def wait(self, admit: Callable[[], Awaitable[None]] = at_once) -> CallResult:
        """Queue, await every outcome, write the dead letters of what was refused, if any, once
        ``admit`` returns.

        Cancelled: withdraws what no ``send`` call holds and re-raises.
        """
        try:
            for name, entries in self._by_lane.items():
                await self._router.lane(name).submit(entries)
                self._queued.append(name)
            if self._open:
                self._settled = asyncio.get_running_loop().create_future()
                await self._settled
        except asyncio.CancelledError:
            for name in self._queued:
                self._router.lane(name).withdraw(self._by_lane[name])
            raise
        if self._refused:
            await admit()
        first, *others = self._records
        for entry, outcome in self._refused:
            cause = _cause(entry, outcome, self._labels)
            await self._router.bury(first, cause)
            for other in others:
                await self._router.bury(other, replace(cause, payload=None))
            others.clear()  # one is enough to have them again
        return CallResult(
            delivered=self._delivered,
            skipped=self._skipped,
            dead_lettered=len(self._refused),
        )

    def settled(self, entry: Entry, outcome: Outcome) -> None:
        """A lane reports an outcome."""
        if outcome.kind is OutcomeKind.DELIVERED:
            self._delivered += 1
            self._tell_delivered(entry, outcome)
        elif outcome.kind is OutcomeKind.SKIPPED:
            self._skipped += 1
        elif outcome.kind is OutcomeKind.REFUSED:
            self._refused.append((entry, outcome))
        self._open -= 1
        if self._open == 0 and self._settled is not None and not self._settled.done():
            self._settled.set_result(None)

    def attempt_failed(self, entry: Entry, failed: FailedAttempt) -> None:
        """A lane reports a failed attempt; it goes on by itself."""
        self._router.tell(
            DeliveryFailed(
                **self._place(entry),
                is_transient=failed.is_transient,
                detail=failed.detail,
            )
        )

    def _place(self, entry: Entry) -> dict[str, Any]:
        """Return what every event about a delivery says of it."""
        delivery = entry.delivery
        return {
            "at": self._router.wall(),
            "topic": delivery.topic,
            "partition": delivery.partition,
            "offset": delivery.offset,
            "task_id": delivery.task_id,
            "sink": delivery.payload.sink,
            "sink_kind": delivery.payload.kind,
            "delivery_id": delivery.delivery_id,
            "attempt": entry.attempt,
        }

    def _tell_delivered(self, entry: Entry, outcome: Outcome) -> None:
        self._router.tell(
            Delivered(
                **self._place(entry),
                duration_ms=outcome.duration_seconds * 1000.0,
                queue_ms=max(0.0, entry.started_at - entry.queued_at) * 1000.0,
            )
        )


def _cause(entry: Entry, outcome: Outcome, labels: Mapping[str, str] | None) -> DeadLetterCause:
    delivery = entry.delivery
    return DeadLetterCause(
        stage=Stage.DELIVER,
        kind=FailureKind.DELIVERY,
        reason=outcome.reason,
        traceback=outcome.traceback,
        attempts=entry.attempt,
        task_id=delivery.task_id or "",
        sink=delivery.payload.sink,
        payload=delivery.payload,
        delivery_id=delivery.delivery_id,
        labels=labels,
    )
