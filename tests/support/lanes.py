"""Entries of a lane, and an owner that collects their outcomes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from sinks.base import Delivery, PermanentError, Sink, SinkError, raise_failures
from sinks.lane import Lane
from sinks.lane_core import BreakerChange, ConnectionDropped, encode
from sinks.lane_queue import Entry, FailedAttempt, Outcome, OutcomeKind

DEADLINE_SECONDS = 5.0


class Collector:
    """Owner of entries and listener of the breaker."""

    def __init__(self, expected: int) -> None:
        self.outcomes: dict[int, Outcome] = {}
        self.failed: list[FailedAttempt] = []
        self.changes: list[BreakerChange] = []
        self.dropped: list[ConnectionDropped] = []
        self.done = asyncio.Event()
        self._told = asyncio.Event()
        self._expected = expected

    def settled(self, entry: Entry, outcome: Outcome) -> None:
        assert entry.index not in self.outcomes
        self.outcomes[entry.index] = outcome
        self._told.set()
        if len(self.outcomes) == self._expected:
            self.done.set()

    def attempt_failed(self, entry: Entry, failed: FailedAttempt) -> None:
        self.failed.append(failed)

    def connection_dropped(self, lane: Lane, dropped: ConnectionDropped) -> None:
        self.dropped.append(dropped)

    def breaker_changed(self, lane: Lane, change: BreakerChange) -> None:
        self.changes.append(change)

    async def until(self, count: int) -> None:
        """Wait for so many outcomes."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            while len(self.outcomes) < count:
                self._told.clear()
                await self._told.wait()

    async def wait(self, seconds: float = DEADLINE_SECONDS) -> list[OutcomeKind]:
        await asyncio.wait_for(self.done.wait(), seconds)
        return [self.outcomes[index].kind for index in sorted(self.outcomes)]


def entries_of(
    owner: Collector, deliveries: Sequence[Delivery], size_bytes: int = 10
) -> list[Entry]:
    """One entry a delivery, numbered in order."""
    return [Entry(one, owner, index, size_bytes) for index, one in enumerate(deliveries)]


def deliver(sink: Sink, batch: Sequence[Delivery]) -> None:
    """Encode a batch and send what can be, as a lane does in one attempt. Raises SinkError."""
    failures: dict[int, SinkError] = {}
    encoded: dict[int, Any] = {}
    for index, one in enumerate(batch):
        try:
            encoded[index] = encode(sink, one)
        except PermanentError as exc:
            failures[index] = exc
    places = list(encoded)
    try:
        if encoded:
            sink.send(list(encoded.values()))
    except PermanentError as exc:
        if not exc.bad_indices:
            raise
        failures |= {places[index]: exc for index in exc.bad_indices}
    except SinkError as exc:
        exc.stored_indices = tuple(places[index] for index in exc.stored_indices)
        raise
    raise_failures(failures, ())
