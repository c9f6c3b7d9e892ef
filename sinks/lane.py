"""The lane around one sink: what the loop sees of it. All methods are called on the loop thread."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Container, Sequence
from functools import partial
from typing import Protocol

from domain.beat import SinkBeat
from domain.breaker import BreakerPolicy, Circuit
from domain.histogram import Histogram
from domain.payload import Payload
from sinks.base import Sink
from sinks.chance import chance
from sinks.config import SinkConfig
from sinks.lane_core import Ask, BreakerChange, ConnectionDropped, LaneCore, Report
from sinks.lane_queue import (
    Entry,
    EntryOwner,
    EntryState,
    FailedAttempt,
    LanePolicy,
    LaneQueue,
    Outcome,
    OutcomeKind,
)
from sinks.lane_thread import LaneThread
from sinks.registry import SinkContext, build_sink, find
from sinks.statistics import BUCKET_BOUNDS_SECONDS, in_ms, percentile_seconds


class LaneListener(Protocol):
    """Listener to a lane's breaker and connections."""

    def breaker_changed(self, lane: Lane, change: BreakerChange) -> None:
        """The breaker opened or closed."""

    def connection_dropped(self, lane: Lane, dropped: ConnectionDropped) -> None:
        """A useless connection was given up."""


class Lane:
    """Batches deliveries across tasks, retries, narrows refused batches, reports each outcome.

    ``payload`` is the class of what it takes. ``build_sink`` makes one sink per thread; ``threads``
    is the most that deliver at once, and more than one start only when full batches wait. ``ask``
    asks the handler after each failed attempt; None: transient errors retry for ever and a
    permanent one refuses its payload.
    """

    def __init__(
        self,
        name: str,
        kind: str,
        build_sink: Callable[[], Sink],
        policy: LanePolicy,
        *,
        payload: type[Payload] = Payload,
        threads: int = 1,
        ask: Ask | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        chance: Callable[[], float] = chance,
    ) -> None:
        self.name = name
        self.kind = kind
        self.payload = payload
        self.clock = clock
        self._build_sink = build_sink
        self._policy = policy
        self._max_threads = threads
        self._ask = ask
        self._wall = wall
        self._chance = chance
        self._queue = LaneQueue(policy)
        self._core: LaneCore | None = None
        self._threads: list[LaneThread] = []
        self._listener: LaneListener | None = None
        self._waiters: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._queued_entries = 0
        self._queued_bytes = 0
        self._figures = _Figures()

    def listen(self, listener: LaneListener) -> None:
        """Tell ``listener`` of the breaker from now on."""
        self._listener = listener

    def start(self) -> None:
        """Start the first thread, which opens the sink and tries for ever."""
        self._core = LaneCore(
            name=self.name,
            kind=self.kind,
            build_sink=self._build_sink,
            queue=self._queue,
            clock=self.clock,
            chance=self._chance,
            retry_seconds=self._policy.backoff.delay_seconds,
            fruitless_seconds=self._policy.fruitless_seconds,
            ask=self._ask,
            loop=asyncio.get_running_loop(),
            absorb=self._absorb,
        )
        self._add_thread(self._core)

    async def submit(self, entries: Sequence[Entry]) -> None:
        """Queue entries; waits while the lane holds ``queue_bytes``. Needs ``start`` before.

        Entries larger than the bound are taken when the lane is empty. Cancelled while it waits:
        nothing was queued.
        """
        size_bytes = sum(entry.size_bytes for entry in entries)
        if self._waiters or not self._has_room(size_bytes):
            await self._room(size_bytes)
        else:
            self._queued_bytes += size_bytes
        self._queued_entries += len(entries)
        core = self._started_core()
        with core.wake:
            self._queue.add(entries, self.clock())
            is_full = self._queue.backlog >= self._policy.max_batch
            is_short = is_full and not core.idle_threads
            # Else a thread that sleeps through the pause finds them at its end.
            if is_full or not core.pausing_threads:
                core.wake.notify()
        if is_short and len(self._threads) < self._max_threads:
            self._add_thread(core)

    def withdraw(self, entries: Sequence[Entry]) -> int:
        """Take back what no ``send`` call holds; their owners hear nothing. Returns how many.

        What one holds gets an outcome only if that call stores it: no other begins with it."""
        with self._started_core().wake:
            taken = self._queue.withdraw(entries)
        self._release(taken)
        return len(taken)

    def take_back(self, entries: Sequence[Entry]) -> bool:
        """Take back queued entries with none of which a call ever began; False: one did, and
        nothing was taken back."""
        with self._started_core().wake:
            if any(entry.is_started or entry.state is not EntryState.WAITING for entry in entries):
                return False
            self._queue.withdraw(entries)
        self._release(entries)
        return True

    def hasten(self, owners: Container[EntryOwner]) -> None:
        """Try what these owners wait for again soon: neither the breaker's cooldown nor the delay
        of a retry has room in the time that is left to them."""
        core = self._started_core()
        with core.wake:
            self._queue.hasten(owners, self.clock())
            core.wake.notify_all()

    def give_back(self, entries: Sequence[Entry]) -> None:
        """Queue again what was taken back, whatever room there is."""
        self._queued_entries += len(entries)
        self._queued_bytes += sum(entry.size_bytes for entry in entries)
        core = self._started_core()
        with core.wake:
            self._queue.give_back(entries, self.clock())
            core.wake.notify()

    @property
    def is_paused(self) -> bool:
        """Whether no delivery may start before ``resume``."""
        return self._queue.is_paused

    @property
    def is_away(self) -> bool:
        """Whether the sink was never opened, or its breaker is not closed."""
        if not self._figures.is_opened:
            return True
        with self._started_core().wake:
            return self._queue.breaker.state(self.clock()) is not Circuit.CLOSED

    def pause(self) -> None:
        """Start no further delivery until ``resume``."""
        self._set_paused(True)

    def resume(self) -> None:
        """Deliver again."""
        self._set_paused(False)

    @property
    def is_started(self) -> bool:
        """Whether ``start`` was called."""
        return self._core is not None

    @property
    def is_opened(self) -> bool:
        """Whether the sink was opened once."""
        return self._figures.is_opened

    @property
    def waiting_for(self) -> str | None:
        """The error that keeps the lane from delivering now, or None."""
        return self._figures.waiting_for

    async def test(self) -> None:
        """Open a second sink as configured and close it again. Raises SinkError."""
        await asyncio.to_thread(self._open_and_close)

    def _open_and_close(self) -> None:
        sink = self._build_sink()
        try:
            sink.open()
        finally:
            sink.close()

    async def close(self, timeout_seconds: float) -> bool:
        """Stop after the running batch and close the sinks; False when abandoned at the timeout.

        What is still queued is neither delivered nor reported.
        """
        if self._core is None:
            return True
        with self._core.wake:
            self._core.stopping.set()
            self._core.wake.notify_all()
        return await asyncio.to_thread(self._join, time.monotonic() + timeout_seconds)

    def _join(self, deadline: float) -> bool:
        joined = [thread.join(max(0.0, deadline - time.monotonic())) for thread in self._threads]
        return all(joined)

    def statistics(self) -> SinkBeat:
        """Return what the lane did so far and how it stands, as a heartbeat tells it."""
        now = self.clock()
        with self._started_core().wake:
            circuit = self._queue.breaker.state(now)
            probe_seconds = self._queue.breaker.wait_seconds(now)
            is_paused = self._queue.is_paused
        figures = self._figures
        counts, error = tuple(figures.latency.counts), figures.last_error
        return SinkBeat(
            name=self.name,
            kind=self.kind,
            delivered=figures.outcomes[OutcomeKind.DELIVERED],
            errors=sum(figures.errors.values()),
            errors_by_class=dict(figures.errors),
            retries=figures.retries,
            reconnects=figures.reconnects,
            last_delivery_at=figures.last_delivery_at,
            last_duration_ms=in_ms(figures.last_duration_seconds),
            p50_ms=in_ms(percentile_seconds(counts, 0.50)),
            p95_ms=in_ms(percentile_seconds(counts, 0.95)),
            p99_ms=in_ms(percentile_seconds(counts, 0.99)),
            queue_bytes=self._queued_bytes,
            queue_entries=self._queued_entries,
            breaker=circuit.value,
            next_probe_seconds=None if circuit is Circuit.CLOSED else probe_seconds,
            last_error=error.detail if error else None,
            last_error_at=figures.last_error_at,
            last_error_class=error.error_class if error else None,
            latency_counts=counts,
            latency_sum_seconds=figures.latency.sum_seconds,
            is_paused=is_paused,
            waiting_for=figures.waiting_for,
        )

    def _started_core(self) -> LaneCore:
        if self._core is None:
            raise RuntimeError(f"lane {self.name}: expected start() before use")
        return self._core

    def _add_thread(self, core: LaneCore) -> None:
        thread = LaneThread(core)
        self._threads.append(thread)
        thread.start()

    def _set_paused(self, is_paused: bool) -> None:
        with self._started_core().wake:
            self._queue.is_paused = is_paused
            self._started_core().wake.notify_all()

    def _has_room(self, size_bytes: int) -> bool:
        return not self._queued_bytes or self._queued_bytes + size_bytes <= self._policy.queue_bytes

    async def _room(self, size_bytes: int) -> None:
        """Wait for room; it is charged by the one who grants it."""
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append((size_bytes, granted))
        try:
            await granted
        except asyncio.CancelledError:
            if not (granted.cancelled() or granted.cancel()):
                self._queued_bytes -= size_bytes
            self._grant()
            raise

    def _grant(self) -> None:
        """Let those in for whom there is room, in their order, and forget who gave up."""
        while self._waiters:
            size_bytes, granted = self._waiters[0]
            if not granted.cancelled():
                if not self._has_room(size_bytes):
                    return
                self._queued_bytes += size_bytes
                granted.set_result(None)
            self._waiters.popleft()

    def _release(self, entries: Sequence[Entry]) -> None:
        self._queued_entries -= len(entries)
        self._queued_bytes -= sum(entry.size_bytes for entry in entries)
        self._grant()

    def _absorb(self, report: Report) -> None:
        """Take in what a thread reports of one batch."""
        self._figures.note(report, self._wall())
        for entries, failed in report.failed:
            for entry in entries:
                entry.owner.attempt_failed(entry, failed)
        if report.breaker is not None and self._listener is not None:
            self._listener.breaker_changed(self, report.breaker)
        if report.dropped is not None and self._listener is not None:
            self._listener.connection_dropped(self, report.dropped)
        for entries, outcome in report.settled:
            self._release(entries)
            if outcome.kind is OutcomeKind.WITHDRAWN:
                continue
            for entry in entries:
                entry.owner.settled(entry, outcome)


class _Figures:
    """The counters of a lane."""

    def __init__(self) -> None:
        self.is_opened = False
        self.outcomes: Counter[OutcomeKind] = Counter()
        self.errors: Counter[str] = Counter(transient=0, permanent=0, config=0, unknown=0)
        self.retries = 0
        self.reconnects = 0
        self.latency = Histogram(BUCKET_BOUNDS_SECONDS)
        self.last_delivery_at: float | None = None
        self.last_duration_seconds: float | None = None
        self.last_error: FailedAttempt | None = None
        self.last_error_at: float | None = None
        self.waiting_for: str | None = None

    def note(self, report: Report, at: float) -> None:
        """Count one report."""
        self.retries += report.retried
        self.reconnects += report.dropped is not None
        for entries, outcome in report.settled:
            self._count(len(entries), outcome, at)
        if report.has_opened:
            self.is_opened = True
            self.waiting_for = None
        if report.error is not None:
            self.errors[report.error.error_class] += report.errors
            self.last_error, self.last_error_at = report.error, at
            if report.error.is_transient:
                self.waiting_for = report.error.detail

    def _count(self, entries: int, outcome: Outcome, at: float) -> None:
        self.outcomes[outcome.kind] += entries
        if outcome.kind is OutcomeKind.DELIVERED:
            self.waiting_for = None
            self.last_delivery_at = at
            self.last_duration_seconds = outcome.duration_seconds
            self.latency.observe(outcome.duration_seconds, entries)


def lane_policy(config: SinkConfig) -> LanePolicy:
    """The lane around a sink as its section asks for it."""
    return LanePolicy(
        max_batch=config.max_batch,
        linger_seconds=config.linger_ms / 1000,
        queue_bytes=config.queue_bytes,
        breaker=BreakerPolicy(
            failure_threshold=config.failure_threshold, cooldown_seconds=config.cooldown_seconds
        ),
    )


def build_lane(
    config: SinkConfig,
    context: SinkContext,
    ask: Ask | None,
    build: Callable[[], Sink] | None = None,
) -> Lane:
    """A lane from a ``sinks.<name>`` section; ``build`` puts another sink in the kind's place.

    Raises LookupError for an unknown kind.
    """
    kind = find(config.kind)
    return Lane(
        context.name,
        kind.payload.kind,
        build or partial(build_sink, kind, config, context),
        lane_policy(config),
        payload=kind.payload,
        threads=config.lane_threads,
        ask=ask,
    )
