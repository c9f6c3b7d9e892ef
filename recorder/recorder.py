"""Keeps what is told: a bounded buffer, then disk, then Postgres, in one order.

``tell`` only appends to a deque. One thread of the recorder takes in: it formats what was told and
moves to disk what the buffer cannot hold. Another one stores in Postgres. So a slow, full or dead
Postgres never slows the pipeline (law 7), nor the way to disk. What cannot be kept is counted.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from django.db import DatabaseError, InterfaceError, OperationalError

from domain.events import Event, Sampled
from domain.histogram import Histogram
from recorder.adoption import Adoption
from recorder.backlog import Backlog
from recorder.config import RecorderConfig
from recorder.databases import close_own_connections, own_connections
from recorder.failures.grouping import Grouping
from recorder.folding import Group, grouped
from recorder.message_row import Unfoldable, fold
from recorder.rollups.gauges import Gauges
from recorder.rollups.label_values import chosen_values
from recorder.rollups.sums import Sums, Tally
from recorder.rows import Row, to_row
from recorder.runs import RunDescription
from recorder.sampling import Sampling
from recorder.shedding import NEVER_SHED, SUCCESSES, ShedAccount
from recorder.spool import Spool
from recorder.thinning import Thinning
from recorder.writer import Project, ensure_run, flush_narrowing, limit_statements, no_projection

STATEMENT_TIMEOUT_MS = 10_000
AGREE_SECONDS = 60.0
"""Interval at which the values are read that the cluster counts labels by."""
RETRY_SECONDS = 1.0
LAST_TURNS = 2
"""At the end: a connection that broke while nothing was told fails at its next use only."""
SPILL_SECONDS = 0.5
"""Seconds that the end of ``close`` keeps for disk when a thread hangs at a frozen server."""
INTAKE_SECONDS = 0.25
"""Interval at which what was told is taken in, at the least. Shorter would leave less to fold."""
INTAKE_EVENTS = 4000
"""Events that are formatted between two looks at the buffer."""
ACCOUNT_SECONDS = 60.0
"""Least time between two rows about what was shed: they are never shed themselves, and a disk may
stay full for days."""
MAX_TOLD_EVENTS = 400_000
"""Events that may wait to be taken in, while the disk stands still; successes only fill half
of it."""

_WITHOUT_LABELS = Tally()

logger = logging.getLogger("drakkar.recorder")


@dataclass(frozen=True, slots=True, kw_only=True)
class RecorderFigures:
    """Figures of the recorder; ``shed`` counts events that could not be kept, ``flush_counts`` the
    batches stored, by duration (``domain.histogram.DOUBLING_SECONDS``)."""

    buffer_events: int
    spooled_bytes: int
    shed: int
    is_connected: bool
    recorded_seq: int
    flush_counts: tuple[int, ...]
    flush_sum_seconds: float


@dataclass(slots=True)
class _Gap:
    """Events passed over here, because too many waited: they get numbers and no rows, and count
    in the rollups but for their labels."""

    kinds: Counter[str] = field(default_factory=Counter)
    sums: Sums = field(default_factory=Sums)
    is_taken: bool = False


class _Abandoned(Exception):
    """Came back from Postgres too late: what there was is on disk, and the recorder closed."""


class Recorder:
    """Keeps what is told (module's docstring). ``tell`` and ``figures`` are for any thread.

    ``_lock`` guards the backlog and the account of what was shed; it is never held while Postgres
    is asked.
    """

    def __init__(
        self,
        run: RunDescription,
        config: RecorderConfig,
        wall: Callable[[], float] = time.time,
        project: Project = no_projection,
    ) -> None:
        self._run = run
        self._config = config
        self._wall = wall
        self._project = project
        self._told: deque[Event | _Gap] = deque()
        self._gap = _Gap(is_taken=True)
        self._gap_lock = threading.Lock()
        self._gaps = 0
        self._passed_over = 0
        self._shed = ShedAccount()
        self._backlog = Backlog(Spool(config.spool_dir, run, config.spool_max_bytes), self._shed)
        self._adoption = Adoption(config.spool_dir, run.id, project)
        self._flushes = Histogram()
        self._seq = 0
        self._held: list[Group] = []
        self._thinning = Thinning(config.event_min_duration_ms, self._leave_out)
        self._tally = Tally(config.rollup_labels)
        self._left_out = Sums()
        self._gauges = Gauges()
        self._sampling = Sampling(config.sample, self._tally)
        self._grouping = Grouping(run.cluster)
        self._recorded_seq = 0
        self._refused: dict[int, Row] = {}
        self._is_registered = False
        self._is_connected = False
        self._is_away_said = False
        self._retry_at = 0.0
        self._account_at = 0.0
        self._agree_at = 0.0
        self._turned = threading.Condition()
        self._is_due = threading.Event()
        self._flushed_at = 0.0
        self._closing = threading.Event()
        self._lock = threading.RLock()
        self._is_left = False
        self._intake = threading.Thread(target=self._take_in, name="recorder-intake", daemon=True)
        self._thread = threading.Thread(target=self._main, name="recorder", daemon=True)

    def tell(self, event: Event) -> None:
        """Take an event in; never blocks, never raises.

        Bounded even while the disk stands still: then successes are passed over first.
        """
        told = self._told
        if 2 * len(told) >= MAX_TOLD_EVENTS and self._is_passed_over(event, len(told)):
            return
        told.append(event)

    def note(self, figures: Mapping[str, float | None]) -> None:
        """Look at gauges, by their names; None is unknown. They are kept by the minute."""
        self._gauges.note(self._wall(), figures)

    def start(self) -> None:
        """Begin to write."""
        self._intake.start()
        self._thread.start()

    def close(self, deadline_seconds: float) -> bool:
        """Write the rest, or leave it on disk; True when all of it is in Postgres.

        Nothing may be told any more. A thread that hangs at a frozen server is left behind.
        """
        until = time.monotonic() + deadline_seconds
        until_spill = max(until - SPILL_SECONDS, until - deadline_seconds / 2)
        self._closing.set()
        self._is_due.set()
        for thread in (self._intake, self._thread):
            thread.join(max(0.0, until_spill - time.monotonic()))
        if self._thread.is_alive() and self._lock.acquire(timeout=SPILL_SECONDS):
            self._is_left = True
            if not self._intake.is_alive():
                self._leave()
            self._lock.release()
        is_held = self._told or self._held or self._sampling.held_events
        is_stored = not (is_held or self._backlog.events or self._backlog.spooled_bytes)
        return not self._thread.is_alive() and is_stored

    def wait_for(self, is_so: Callable[[RecorderFigures], bool], timeout_seconds: float) -> bool:
        """Wait until the figures at the end of one of the threads' turns are so; False: too late.

        For any thread but the recorder's own.
        """
        with self._turned:
            return self._turned.wait_for(lambda: is_so(self.figures()), timeout_seconds)

    def figures(self) -> RecorderFigures:
        """Return its figures of now."""
        return RecorderFigures(
            buffer_events=self._waiting_events(),
            spooled_bytes=self._backlog.spooled_bytes,
            shed=self._shed.total + self._passed_over,
            is_connected=self._is_connected,
            recorded_seq=self._recorded_seq,
            flush_counts=tuple(self._flushes.counts),
            flush_sum_seconds=self._flushes.sum_seconds,
        )

    def _waiting_events(self) -> int:
        held = sum(len(group.events) for group in self._held)
        held += self._sampling.held_events
        return len(self._told) - self._gaps + held + self._backlog.events

    # -- the thread that tells

    def _is_passed_over(self, event: Event, waiting: int) -> bool:
        """Count an event that may not wait any more, where it was told; False: it may."""
        kind = event.kind
        if kind in NEVER_SHED or (kind not in SUCCESSES and waiting < MAX_TOLD_EVENTS):
            return False
        with self._gap_lock:
            if self._gap.is_taken or self._newest() is not self._gap:
                self._gap = _Gap()
                self._gaps += 1
                self._told.append(self._gap)
            self._gap.kinds[kind] += 1
            self._gap.sums.add_events((event,), _WITHOUT_LABELS)
            self._passed_over += 1
        return True

    def _newest(self) -> Event | _Gap | None:
        try:
            return self._told[-1]
        except IndexError:  # all of it was taken in meanwhile
            return None

    # -- the thread that takes in

    def _take_in(self) -> None:
        flush_seconds = self._config.flush_interval_ms / 1000.0
        interval = min(INTAKE_SECONDS, flush_seconds)
        while not self._closing.wait(interval):
            self._take_or_say()
            if time.monotonic() - self._flushed_at >= flush_seconds - interval:
                self._is_due.set()
        self._take_or_say()
        self._is_due.set()

    def _take_or_say(self) -> None:
        try:
            self._take()
        except Exception:
            logger.exception("recorder: events could not be taken in")
        with self._turned:
            self._turned.notify_all()

    def _take(self) -> None:
        """Format what was told and keep it; the buffer never holds more than it may for long."""
        # What is told meanwhile waits, for what belongs to it.
        for _ in range(0, max(1, len(self._told)), INTAKE_EVENTS):
            rows = self._formatted(INTAKE_EVENTS)
            with self._lock:
                if self._is_left:
                    return
                self._keep(rows)

    def _keep(self, rows: list[Row]) -> None:
        """Add rows and what there is to say of events shed. Needs the lock."""
        self._backlog.add(rows)
        self._backlog.spill(self._config.max_buffer_bytes)
        is_last = self._closing.is_set() and not self._told
        if is_last or time.monotonic() >= self._account_at:
            self._settle()

    def _settle(self) -> None:
        """Add a row about what was shed since the last one, if anything was. Needs the lock."""
        if (account := self._shed.settle(self._wall())) is not None:
            self._seq += 1
            self._backlog.add([to_row(account, self._seq, self._config)])
            self._account_at = time.monotonic() + ACCOUNT_SECONDS

    def _formatted(self, most: int) -> list[Row]:
        """Return the rows of the oldest events told; each has its ``seq`` in the order kept."""
        rows: list[Row] = []
        events: list[Event] = []
        for _ in range(min(most, len(self._told))):
            event = self._told.popleft()
            if isinstance(event, _Gap):
                self._format(events, rows)
                events = []
                self._count_gap(event)
            else:
                events += self._sampled(self._thinning.pass_on(event))
        events += self._sampled(self._thinning.due(self._wall()))
        self._format([*events, *self._judged_late()], rows)
        self._count_left_out(rows)
        return rows

    def _leave_out(self, events: Sequence[Event]) -> None:
        self._left_out.add_events(events, self._tally)

    def _count_left_out(self, rows: list[Row]) -> None:
        """Have the newest row carry what fast successes count for that get none; at the end there
        is a row for it."""
        if not self._left_out:
            return
        bearer = next((row for row in reversed(rows) if "sums" not in row), None)
        if bearer is None:
            if not self._closing.is_set() or self._told:
                return
            one_in = self._config.sample.one_in
            nothing = Sampled(at=self._wall(), one_in=one_in, messages=0, events={}, fates={})
            self._format_one(nothing, rows)
            bearer = rows[-1]
        bearer["sums"], self._left_out = self._left_out.carried(), Sums()

    def _sampled(self, events: Iterable[Event]) -> Iterable[Event]:
        if self._sampling.is_off:
            return events
        return [kept for event in events for kept in self._sampling.pass_on(event)]

    def _judged_late(self) -> Iterator[Event]:
        """Yield what was held for too long, at the end all of it; and what was left out."""
        is_last, now = self._closing.is_set() and not self._told, self._wall()
        yield from self._sampling.rest() if is_last else self._sampling.due(now)
        yield from self._sampling.account(now, is_last=is_last)

    def _format(self, events: list[Event], rows: list[Row]) -> None:
        """Add rows of events told one after the other; a message that went as usual is one."""
        now = self._wall()
        held: list[Group] = []
        for group in grouped(events, self._config.output_min_duration_ms, self._held):
            if group.waits(now) and not self._closing.is_set():
                held.append(group)
                continue
            if group.is_usual and len(group.events) > 1:
                try:
                    row = fold(group.events, self._seq + 1)
                    row["tally"] = self._tally.observe_all(group.events)
                    rows.append(row)
                    self._seq += len(group.events)
                    continue
                except Unfoldable as exc:
                    logger.debug("recorder: a message gets a row an event: %s", exc)
            for event in group.events:
                self._format_one(event, rows)
        self._held = held

    def _format_one(self, event: Event, rows: list[Row]) -> None:
        self._seq += 1
        try:
            row = to_row(event, self._seq, self._config)
            if (seen := self._tally.observe(event)) is not None:
                row["tally"] = [seen]
            self._grouping.mark(event, row)
            rows.append(row)
        except Exception:
            logger.exception("recorder: an event of kind %s cannot be written down", event.kind)
            sums = Sums()
            sums.add_events((event,), self._tally)
            with self._lock:
                self._shed.add_range({event.kind: 1}, self._seq)
                self._shed.count(sums)

    def _count_gap(self, gap: _Gap) -> None:
        with self._gap_lock:
            gap.is_taken = True
            count = gap.kinds.total()
            self._gaps -= 1
        with self._lock:
            self._shed.add_range(gap.kinds, self._seq + 1, is_new=False)
            self._shed.count(gap.sums)
        self._seq += count

    # -- the thread that stores

    def _main(self) -> None:
        interval = self._config.flush_interval_ms / 1000.0
        try:
            while not self._closing.is_set():
                # The intake says when; it may hang at a disk.
                self._is_due.wait(2 * interval)
                self._is_due.clear()
                self._flushed_at = time.monotonic()
                self._turn_or_say()
            self._intake.join()
            for _ in range(LAST_TURNS):
                self._retry_at = 0.0
                self._turn_or_say()
                if self._is_connected:
                    break
            with self._lock:
                if not self._is_left:
                    self._leave()
        except _Abandoned:
            logger.warning("recorder: Postgres answered after the end; the rest is on disk")
        self._adoption.close()
        close_own_connections()

    def _leave(self) -> None:
        """Leave on disk what is not stored, and the account of what was shed. Needs the lock."""
        while self._told or self._held or self._sampling.held_events:
            self._backlog.add(self._formatted(INTAKE_EVENTS))
        self._backlog.leave()
        self._shed.add(self._refused.values())  # an heir passes over those before what is stored
        self._settle()
        self._backlog.leave()
        self._backlog.close()

    def _turn_or_say(self) -> None:
        """Nothing unforeseen ends the thread: what is kept is tried again, and it shows."""
        try:
            self._flush()
        except _Abandoned:
            raise
        except Exception:
            logger.exception("recorder: a turn failed, events are kept")
            self._rest()
        with self._turned:
            self._turned.notify_all()

    def _rest(self) -> None:
        self._is_connected = False
        self._is_registered = False  # the next database may be another one, without the run
        self._retry_at = time.monotonic() + RETRY_SECONDS
        close_own_connections()

    def _flush(self) -> None:
        if time.monotonic() < self._retry_at:
            return
        try:
            self._register()
            while batch := self._next_batch():
                self._store(batch)
            self._is_connected, self._is_away_said = True, False
            self._gauges.write(
                self._run, time.monotonic(), self._wall(), is_last=self._closing.is_set()
            )
            self._adopt()
            self._agree()  # last: without an answer to it, events are stored all the same
        except (DatabaseError, OSError) as exc:
            self._say_away(exc)
            self._rest()

    def _say_away(self, error: Exception) -> None:
        if not self._is_away_said:
            is_away = isinstance(error, OperationalError | InterfaceError | OSError)
            what = "is away" if is_away else "takes no events"
            logger.warning("recorder: Postgres %s, they are kept: %s", what, error)
        self._is_away_said = True

    def _register(self) -> None:
        for each in own_connections():
            if each.connection is None:
                limit_statements(STATEMENT_TIMEOUT_MS, each)
        if not self._is_registered:
            ensure_run(self._run)
            self._is_registered = True

    def _agree(self) -> None:
        """Count labels by the values that the cluster counts. Raises DatabaseError."""
        if (labels := self._config.rollup_labels) and time.monotonic() >= self._agree_at:
            self._tally.agree(chosen_values(self._run.cluster, labels, self._wall()))
            self._agree_at = time.monotonic() + AGREE_SECONDS

    def _next_batch(self) -> list[Row]:
        with self._lock:
            if self._is_left:
                raise _Abandoned
            return self._backlog.next_batch()

    def _store(self, rows: list[Row]) -> None:
        began = time.monotonic()
        seq, refused = flush_narrowing(
            self._run, rows, self._recorded_seq, self._project, self._refused
        )
        self._flushes.observe(time.monotonic() - began)
        for row in refused:
            logger.error("recorder: Postgres refused an event of kind %s", row["kind"])
        with self._lock:
            if self._is_left:
                raise _Abandoned
            self._recorded_seq = seq
            self._backlog.stored()
            self._shed.add(refused)
            self._refused.clear()
        self._is_connected = True

    def _adopt(self) -> None:
        """Store a bit of what dead runs of this host left, once the own rows are stored."""
        if self._closing.is_set():
            return
        try:
            for event in self._adoption.step(time.monotonic(), self._wall()):
                self.tell(event)
        except OSError as exc:
            logger.error("recorder: cannot adopt a spool: %s", exc)
