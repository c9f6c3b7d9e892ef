"""Keeps what is told: a bounded buffer, then disk, then Postgres, in one order.

``tell`` only appends to a deque; formatting, disk and database are the recorder's own thread's, so
a
slow, full or dead recorder never slows the pipeline (law 7). What cannot be kept is counted.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

from django.db import DatabaseError, connection

from domain.events import Event, RecorderShed
from domain.histogram import Histogram
from recorder.adoption import Adoption
from recorder.config import RecorderConfig
from recorder.rows import Row, size_bytes, to_row
from recorder.runs import RunDescription
from recorder.spool import Spool
from recorder.thinning import Thinning
from recorder.writer import Project, ensure_run, flush_narrowing, limit_statements, no_projection

BATCH_ROWS = 1000
STATEMENT_TIMEOUT_MS = 10_000
RETRY_SECONDS = 1.0
SPILL_SECONDS = 0.5
"""What the end of ``close`` keeps for disk when the thread hangs at a frozen server."""
MAX_TOLD_EVENTS = 100_000
NEVER_SHED = frozenset({"dead_lettered", "control", "recorder_shed"})

SUCCESSES = frozenset(
    {
        "consumed", "arranged", "task_started", "task_completed", "collected", "delivered",
        "message_completed", "committed", "periodic_run",
    }
)  # fmt: skip

logger = logging.getLogger("drakkar.recorder")


def is_no_success(row: Row) -> bool:
    """Whether a row tells of something else than work that went well: that is shed first."""
    return row["kind"] not in SUCCESSES


def is_never_shed(row: Row) -> bool:
    """Whether a row waits for ever rather than being shed."""
    return row["kind"] in NEVER_SHED


@dataclass(frozen=True, slots=True, kw_only=True)
class RecorderFigures:
    """How the recorder stands; ``shed`` counts events that could not be kept, ``flush_counts`` the
    batches stored, by duration (``domain.histogram.DOUBLING_SECONDS``)."""

    buffer_events: int
    spooled_bytes: int
    shed: int
    is_connected: bool
    recorded_seq: int
    flush_counts: tuple[int, ...]
    flush_sum_seconds: float


class _Left(Exception):
    """Came back from Postgres too late: what there was is on disk, and the recorder closed."""


class Recorder:
    """See the module's docstring. ``tell`` is for one thread (the loop), the rest for any."""

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
        self._told: deque[Event] = deque()
        self._rows: deque[Row] = deque()
        self._rows_bytes = 0
        self._spool = Spool(config.spool_dir, run, config.spool_max_bytes)
        self._adoption = Adoption(config.spool_dir, run.id, project)
        self._shed: Counter[str] = Counter()
        self._overflow: Counter[str] = Counter()
        self._shed_total = 0
        self._flushes = Histogram()
        self._shed_seqs = (0, 0)
        self._seq = 0
        self._thinning = Thinning(config.event_min_duration_ms)
        self._recorded_seq = 0
        self._is_registered = False
        self._is_connected = False
        self._retry_at = 0.0
        self._wake = threading.Event()
        self._turned = threading.Condition()
        self._closing = threading.Event()
        self._hands = threading.Lock()
        self._is_left = False
        self._thread = threading.Thread(target=self._main, name="recorder", daemon=True)

    def tell(self, event: Event) -> None:
        """Take an event in; never blocks, never raises.

        Bounded even while the thread is held up (a frozen server): what comes then is counted.
        """
        if len(self._told) >= MAX_TOLD_EVENTS and event.kind not in NEVER_SHED:
            self._overflow[event.kind] += 1
            self._shed_total += 1
            return
        self._told.append(event)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def close(self, deadline_seconds: float) -> bool:
        """Write the rest, or leave it on disk; True when all of it is in Postgres.

        Nothing may be told any more. A thread that hangs at a frozen server is left behind.
        """
        self._closing.set()
        self._wake.set()
        self._thread.join(max(deadline_seconds - SPILL_SECONDS, deadline_seconds / 2))
        if self._thread.is_alive() and self._hands.acquire(timeout=SPILL_SECONDS):
            self._is_left = True
            self._leave()
            self._hands.release()
        return not self._thread.is_alive() and not self._rows and self._spool.size_bytes == 0

    def wait_for(self, is_so: Callable[[RecorderFigures], bool], timeout_seconds: float) -> bool:
        """Wait until the figures at the end of one of the thread's turns are so; False: too late.

        For any thread but the recorder's own.
        """
        with self._turned:
            return self._turned.wait_for(lambda: is_so(self.figures()), timeout_seconds)

    def figures(self) -> RecorderFigures:
        """How it stands now."""
        return RecorderFigures(
            buffer_events=len(self._told) + len(self._rows),
            spooled_bytes=self._spool.size_bytes,
            shed=self._shed_total,
            is_connected=self._is_connected,
            recorded_seq=self._recorded_seq,
            flush_counts=tuple(self._flushes.counts),
            flush_sum_seconds=self._flushes.sum_seconds,
        )

    # -- the thread

    def _main(self) -> None:
        interval = self._config.flush_interval_ms / 1000.0
        try:
            while not self._closing.is_set():
                self._wake.wait(interval)
                self._turn_or_say()
            self._retry_at = 0.0
            self._turn_or_say()
            with self._hands:
                if not self._is_left:
                    self._leave()
        except _Left:
            logger.warning("recorder: Postgres answered after the end; the rest is on disk")
        connection.close()

    def _leave(self) -> None:
        """What is not stored goes to disk. Needs the hands."""
        self._take()
        self._spill(0)
        self._spool.close()
        self._adoption.close()

    @contextmanager
    def _at_postgres(self) -> Iterator[None]:
        """For what may hang: rows and spool are out of hand meanwhile. Raises _Left."""
        self._hands.release()
        try:
            yield
        finally:
            self._hands.acquire()
            if self._is_left:
                raise _Left

    def _turn_or_say(self) -> None:
        """Nothing unforeseen ends the thread: what is kept is tried again, and it shows."""
        try:
            with self._hands:
                self._turn()
        except _Left:
            raise
        except Exception:
            logger.exception("recorder: a turn failed, events are kept")
            self._is_connected = False
            self._retry_at = time.monotonic() + RETRY_SECONDS
            connection.close()

    def _turn(self) -> None:
        self._take()
        self._flush()
        self._spill(self._config.max_buffer_bytes)
        with self._turned:
            self._turned.notify_all()

    def _take(self) -> None:
        """Format what was told. Each row has its ``seq`` in the order kept."""
        while self._told:
            for event in self._thinning.pass_on(self._told.popleft()):
                self._add(event)
        for event in self._thinning.due(self._wall()):
            self._add(event)

    def _add(self, event: Event) -> None:
        try:
            row = to_row(event, self._seq + 1, self._config)
        except Exception:
            logger.exception("recorder: an event of kind %s cannot be written down", event.kind)
            self._overflow[event.kind] += 1
            self._shed_total += 1
            return
        self._seq += 1
        self._rows.append(row)
        self._rows_bytes += size_bytes(row)
        if len(self._rows) % BATCH_ROWS == 0:
            self._spill(self._config.max_buffer_bytes)

    def _flush(self) -> None:
        if time.monotonic() < self._retry_at:
            return
        try:
            self._register()
            while (spooled := self._spool.peek()) is not None:
                self._store(spooled)
                self._spool.pop()
            while self._rows:
                batch = list(islice(self._rows, BATCH_ROWS))
                self._store(batch)
                for _ in batch:
                    self._rows_bytes -= size_bytes(self._rows.popleft())
            self._is_connected = True
            self._adopt()
        except (DatabaseError, OSError) as exc:
            if self._is_connected or not self._retry_at:
                logger.warning("recorder: Postgres is away, events are kept: %s", exc)
            self._is_connected = False
            self._retry_at = time.monotonic() + RETRY_SECONDS
            with self._at_postgres():
                connection.close()

    def _adopt(self) -> None:
        """Store a bit of what dead runs of this host left, once the own rows are stored."""
        if self._closing.is_set():
            return
        try:
            with self._at_postgres():
                refused = self._adoption.step(time.monotonic())
        except OSError as exc:
            logger.error("recorder: cannot adopt a spool: %s", exc)
            return
        for row in refused:
            self._count_shed(row)
        self._tell_shed()

    def _register(self) -> None:
        with self._at_postgres():
            if connection.connection is None:
                limit_statements(STATEMENT_TIMEOUT_MS)
            if not self._is_registered:
                ensure_run(self._run)
                self._is_registered = True

    def _store(self, rows: list[Row]) -> None:
        began = time.monotonic()
        with self._at_postgres():
            self._recorded_seq, refused = flush_narrowing(
                self._run, rows, self._recorded_seq, self._project
            )
        self._flushes.observe(time.monotonic() - began)
        for row in refused:
            logger.error("recorder: Postgres refused an event of kind %s", row["kind"])
            self._count_shed(row)
        self._tell_shed()

    def _spill(self, keep_bytes: int) -> None:
        """Move the oldest rows to disk until the buffer fits; shed where the disk is full too."""
        while self._rows and self._rows_bytes > keep_bytes:
            batch = [self._rows.popleft() for _ in range(min(BATCH_ROWS, len(self._rows)))]
            self._rows_bytes -= sum(size_bytes(row) for row in batch)
            if not self._keep(batch) and not self._keep_with_room_made(batch):
                kept = self._keep_part(batch)
                self._rows.extendleft(reversed(kept))
                self._rows_bytes += sum(size_bytes(row) for row in kept)
                if kept:
                    return

    def _keep_with_room_made(self, batch: list[Row]) -> bool:
        """Shed the oldest successes on disk until the batch fits; False when none are left."""
        try:
            while (shed := self._spool.thin(is_no_success)) is not None:
                for row in shed:
                    self._count_shed(row)
                if self._keep(batch):
                    return True
        except OSError as exc:
            logger.error("recorder: cannot thin the spool: %s", exc)
        return False

    def _keep_part(self, batch: list[Row]) -> list[Row]:
        """Shed the batch's successes, then all but what is never shed; what found no place."""
        for is_kept in (is_no_success, is_never_shed):
            for row in batch:
                if not is_kept(row):
                    self._count_shed(row)
            batch = [row for row in batch if is_kept(row)]
            if not batch or self._keep(batch):
                return []
        return batch

    def _keep(self, batch: list[Row]) -> bool:
        try:
            return self._spool.append(batch)
        except OSError as exc:
            logger.error("recorder: cannot write %s: %s", self._config.spool_dir, exc)
            return False

    def _count_shed(self, row: Row) -> None:
        first, last = self._shed_seqs
        self._shed_seqs = (min(first or row["seq"], row["seq"]), max(last, row["seq"]))
        self._shed[row["kind"]] += 1
        self._shed_total += 1

    def _tell_shed(self) -> None:
        overflow, self._overflow = self._overflow, Counter()
        self._shed.update(overflow)
        if not self._shed:
            return
        first, last = self._shed_seqs
        shed, self._shed, self._shed_seqs = dict(self._shed), Counter(), (0, 0)
        event = RecorderShed(at=self._wall(), shed=shed, first_seq=first, last_seq=last)
        self.tell(event)
