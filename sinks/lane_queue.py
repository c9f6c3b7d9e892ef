"""Order and time of a lane's deliveries: pure state. The caller has the lane's lock and clock."""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import count
from typing import Protocol

from domain.breaker import BreakerPolicy, Circuit, CircuitBreaker
from domain.retry import Backoff
from domain.value import value
from sinks.base import Delivery

DENSE_BATCH = 16
"""A batch of so many is followed by the longest pause."""
HASTE_SECONDS = 0.5
"""The longest wait for an attempt while the owner of an entry ends."""


class EntryState(IntEnum):
    """Where an entry stands; it may be withdrawn while it waits."""

    WAITING = 0
    DELIVERING = 1
    DONE = 2
    WITHDRAWN = 3


class OutcomeKind(IntEnum):
    """How a delivery ended."""

    DELIVERED = 0
    SKIPPED = 1
    REFUSED = 2
    WITHDRAWN = 3


@value(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a delivery ended; REFUSED wants to be dead-lettered for ``reason``."""

    kind: OutcomeKind
    duration_seconds: float = 0.0
    reason: str = ""
    traceback: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedAttempt:
    """One failed attempt after narrowing. ``error_class`` is transient, permanent, config or
    unknown; ``is_transient``: the lane tries again by itself."""

    error_class: str
    detail: str
    is_transient: bool = True


class EntryOwner(Protocol):
    """Submitter of entries. Called on the loop thread."""

    def settled(self, entry: Entry, outcome: Outcome) -> None:
        """The entry has its outcome: once, and never after it was withdrawn."""

    def attempt_failed(self, entry: Entry, failed: FailedAttempt) -> None:
        """An attempt failed while the breaker was closed; the entry may be tried again."""


@dataclass(slots=True, eq=False)
class Entry:
    """One delivery in a lane. ``is_started`` stays true once a ``send`` call began with it;
    ``is_unwanted`` that its owner gave it up during one, which is then the last.
    ``lone_failures`` counts errors of no known kind when it was sent alone, the lane having stored
    ``stored_before`` payloads at the last. ``is_slow``: it fails alone, with a transient error."""

    delivery: Delivery
    owner: EntryOwner
    index: int
    size_bytes: int
    attempt: int = 1
    queued_at: float = 0.0
    started_at: float = 0.0
    is_started: bool = False
    is_unwanted: bool = False
    lone_failures: int = 0
    stored_before: int = 0
    is_slow: bool = False
    state: EntryState = EntryState.WAITING


@dataclass(frozen=True, slots=True, kw_only=True)
class LanePolicy:
    """How a lane batches, pauses and rests.

    After ``fruitless_seconds`` in which its attempts failed and none stored anything, a connection
    is made anew if another one can be opened.
    """

    max_batch: int = 500
    linger_seconds: float = 0.005
    queue_bytes: int = 16 * 1024 * 1024
    backoff: Backoff = field(
        default_factory=lambda: Backoff(initial_seconds=0.1, factor=2, max_seconds=8, jitter=0.2)
    )
    breaker: BreakerPolicy = field(default_factory=BreakerPolicy)
    fruitless_seconds: float = 60.0

    def pause_seconds(self, batch: int) -> float:
        """Return how long after the start of a batch of so many the next one waits for company.

        It grows with the batch, from a quarter of the linger to four times of it: a payload by
        itself hardly holds up the next one, and what comes by the hundred goes out by the dozen.
        """
        return self.linger_seconds * min(max(batch, 1), DENSE_BATCH) / 4


class LaneQueue:
    """Entries ready or delayed, the rest after a failure, the breaker. ``now`` is monotonic.

    A batch goes out at once unless the one before it has just gone: then after the pause that
    follows one of that size (``LanePolicy.pause_seconds``), or as soon as it is full.
    """

    def __init__(self, policy: LanePolicy) -> None:
        self.breaker = CircuitBreaker(policy.breaker)
        self.is_paused = False
        self._policy = policy
        self._ready: deque[Entry] = deque()
        self._delayed: list[tuple[float, int, Entry]] = []
        self._order = count()
        self._pause_until = -math.inf
        self._is_dense = False
        self._is_probing = False
        self._rest_until = 0.0
        self._withdrawn = 0
        self._dropped: list[Entry] = []

    @property
    def backlog(self) -> int:
        """Entries ready to go, withdrawn ones included until they are met."""
        return len(self._ready)

    def add(self, entries: Iterable[Entry], now: float) -> None:
        """Take entries in at the end."""
        for entry in entries:
            entry.queued_at = now
            self._ready.append(entry)

    def wait_seconds(self, now: float) -> float | None:
        """How long until a batch may go: 0 now, None until something changes."""
        self._wake_delayed(now)
        if self.is_paused or self._is_probing:
            return None
        pause = self.pause_seconds(now)
        if not self._ready:
            # Where entries come densely, one wake-up at the pause's end instead of one by the next.
            if self._is_dense and pause > 0:
                return pause
            return self._delayed[0][0] - now if self._delayed else None
        return max(pause, self._rest_until - now, self.breaker.wait_seconds(now))

    def pause_seconds(self, now: float) -> float:
        """How much longer a batch waits for company."""
        is_full = len(self._ready) >= self._policy.max_batch
        return 0.0 if is_full else max(0.0, self._pause_until - now)

    def take(self, now: float) -> list[Entry]:
        """Start a batch, its entries marked as delivering; empty when none may start."""
        batch: list[Entry] = []
        while self._ready and len(batch) < self._policy.max_batch:
            entry = self._ready.popleft()
            if entry.state is EntryState.WAITING:
                batch.append(entry)
        if not batch:
            return batch
        is_closed = self.breaker.state(now) is Circuit.CLOSED
        if not self.breaker.allows(now):
            self._ready.extendleft(reversed(batch))
            return []
        self._is_probing = not is_closed
        self._pause_until = now + self._policy.pause_seconds(len(batch))
        self._is_dense = len(batch) > 1
        return self.begin(batch, now)

    def begin(self, entries: Sequence[Entry], now: float) -> list[Entry]:
        """Mark what was not withdrawn as delivering and return it."""
        kept = [entry for entry in entries if entry.state is EntryState.WAITING]
        for entry in kept:
            entry.state = EntryState.DELIVERING
            entry.started_at = now
            entry.is_started = True
        return kept

    def hold(self, entries: Iterable[Entry]) -> None:
        """Delivery of these stopped without their being stored: they may be withdrawn again.

        What was withdrawn meanwhile stays withdrawn (law 6: nothing of an ended epoch starts)."""
        for entry in entries:
            if entry.state is not EntryState.DELIVERING:
                continue
            if entry.is_unwanted:
                entry.state = EntryState.WITHDRAWN
                self._dropped.append(entry)
            else:
                entry.state = EntryState.WAITING

    def dropped(self) -> list[Entry]:
        """Return what ``hold`` gave up since the last call: nobody has released it yet."""
        dropped, self._dropped = self._dropped, []
        return dropped

    def put_back(self, entries: Sequence[Entry]) -> None:
        """Make these the next again, in their order."""
        self.hold(entries)
        self._ready.extendleft(reversed(entries))

    def put_last(self, entries: Iterable[Entry]) -> None:
        """Put these after all others that are ready."""
        entries = list(entries)
        self.hold(entries)
        self._ready.extend(entries)

    def recover(self, batch: Sequence[Entry]) -> list[Entry]:
        """Make next again, and return, what a thread that broke down still held of its batch."""
        known = {id(entry) for entry in self._ready} | {id(one[2]) for one in self._delayed}
        open_states = (EntryState.WAITING, EntryState.DELIVERING)
        held = [one for one in batch if one.state in open_states and id(one) not in known]
        self.put_back(held)
        return held

    def delay(self, entries: Iterable[Entry], until: float) -> None:
        """Make these next again, not before that moment, without what was withdrawn meanwhile."""
        entries = list(entries)
        self.hold(entries)
        for entry in entries:
            if entry.state is EntryState.WAITING:
                heapq.heappush(self._delayed, (until, next(self._order), entry))

    def rest(self, until: float) -> None:
        """Deliver nothing before that moment."""
        self._rest_until = max(self._rest_until, until)

    def hasten(self, owners: Container[EntryOwner], now: float) -> None:
        """Try these again soon, whatever was to be waited for: their owners end."""
        due = now + HASTE_SECONDS
        self.breaker.probe_by(due)
        self._rest_until = min(self._rest_until, due)
        self._pause_until = min(self._pause_until, now)
        self._delayed = [
            (min(until, due) if entry.owner in owners else until, number, entry)
            for until, number, entry in self._delayed
        ]
        heapq.heapify(self._delayed)

    def done(self, entries: Iterable[Entry]) -> None:
        """Note that these have their outcome."""
        for entry in entries:
            entry.state = EntryState.DONE

    def finished(self) -> None:
        """Note that the batch of the last ``take`` is over."""
        self._is_probing = False

    def withdraw(self, entries: Iterable[Entry]) -> list[Entry]:
        """Take back those that no ``send`` call holds, and return them; what one holds is not
        delivered again."""
        taken = []
        for entry in entries:
            if entry.state is EntryState.WAITING:
                entry.state = EntryState.WITHDRAWN
                taken.append(entry)
            elif entry.state is EntryState.DELIVERING:
                entry.is_unwanted = True
        self._withdrawn += len(taken)
        if self._withdrawn > len(self._ready) // 2:
            self._forget_withdrawn()
        return taken

    def give_back(self, entries: Sequence[Entry], now: float) -> None:
        """Take in again what was withdrawn and never begun."""
        self._forget_withdrawn()
        for entry in entries:
            entry.state = EntryState.WAITING
        self.add(entries, now)

    def _forget_withdrawn(self) -> None:
        self._ready = deque(entry for entry in self._ready if entry.state is EntryState.WAITING)
        self._withdrawn = 0

    def _wake_delayed(self, now: float) -> None:
        due = []
        while self._delayed and self._delayed[0][0] <= now:
            due.append(heapq.heappop(self._delayed)[2])
        self._ready.extendleft(
            entry for entry in reversed(due) if entry.state is EntryState.WAITING
        )
