"""What each event counts for, and sums of it: plain values, so that rows carry them to disk too.

An event is *observed* once, where its row is made or where it is given up; the observation is a
tuple. *Sums* add observations up by their key. Durations are whole microseconds, as they are stored
in events: sums of them are exact, in whatever order they are added.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from math import isfinite
from typing import Any

from domain.events import (
    AttemptEnded,
    Consumed,
    DeadLettered,
    Delivered,
    DeliveryFailed,
    Event,
    MessageCompleted,
    Skipped,
    TaskCancelled,
    TaskCompleted,
    TaskFailed,
    TaskRetried,
)
from domain.log_buckets import bucket_of
from recorder.rows import clean

MINUTE, HOUR, DAY = 60, 3_600, 86_400
MAX_US = 10**13
"""Longest duration that is summed, 115 days: sums of what a broken clock told stay in 64 bits."""
MAX_MS = MAX_US / 1000.0
MAX_BYTES = 2**45
MAX_TEXT = 255
MOST_VALUES = 20
"""Values of a label that a cluster counts by themselves; the rest is ``OTHER``."""
OTHER = "other"
MOST_CELLS = 2_000
"""Cells of sums that wait to be carried: past it minutes are joined to hours, then to days."""

logger = logging.getLogger("drakkar.recorder")


class Subject(StrEnum):
    """What a cell counts."""

    INPUT = "input"
    """Messages handed over; ``output_bytes`` is their size."""
    MESSAGE = "message"
    """Messages by fate; ``durations`` from hand-over to fate."""
    TASK = "task"
    """Attempts that ended, by outcome (completed, failed, cancelled) and failure kind."""
    LABEL = "label"
    """The same by a label's value."""
    RETRY = "retry"
    """Attempts that will be made again, by failure kind."""
    DELIVERY = "delivery"
    """Payloads by sink: delivered, or an attempt failed (transient, permanent)."""
    LETTER = "letter"
    """Dead letters by stage, failure kind and sink."""


# A member's value costs as much as the rest of an observation.
_INPUT, _MESSAGE, _TASK = Subject.INPUT.value, Subject.MESSAGE.value, Subject.TASK.value
_DELIVERY, _LABEL = Subject.DELIVERY.value, Subject.LABEL.value

Key = tuple[int, str, str, str, str, str, str]
"""Start (UTC epoch seconds), subject, outcome, failure, sink, label's name and value."""
Observation = tuple[
    int, str, str, str, str, tuple[tuple[str, str], ...], int, int | None, int | None, int | None,
    int | None, int,
]  # fmt: skip
"""Start, subject, outcome, failure, sink, labels; then how many, duration and wait in microseconds,
CPU time in microseconds, peak memory in bytes, output in bytes. None is unknown."""


def _us(ms: float | None) -> int | None:
    if ms is None:
        return None
    if 0 <= ms <= MAX_MS:
        return round(ms * 1000.0)
    return (0 if ms < 0 else MAX_US) if isfinite(ms) else None


def _cpu_us(event: AttemptEnded | TaskCancelled) -> int | None:
    user, system = event.user_cpu_seconds, event.system_cpu_seconds
    if user is None and system is None:
        return None
    return _us(((user or 0.0) + (system or 0.0)) * 1000.0)


def _bytes(value: int | None) -> int:
    return 0 if value is None else min(MAX_BYTES, max(0, value))


class Tally:
    """Observer of events; knows which labels it counts by, and which of their values: those that
    its cluster chose (``agree``), and while these are fewer than ``MOST_VALUES`` what it meets.

    For one thread, but ``agree``, and ``observe`` without labels, are for any.
    """

    def __init__(self, labels: Iterable[str] = ()) -> None:
        self._values: dict[str, set[str]] = {name: set() for name in labels}

    def agree(self, chosen: Mapping[str, Sequence[str]]) -> None:
        """Take over the values that the cluster chose, first come first; what was met here since
        follows them while there is room. What is met meanwhile is met again, so no lock."""
        agreed = {}
        for name, values in self._values.items():
            those = dict.fromkeys((*chosen.get(name, ()), *sorted(values.copy())))
            agreed[name] = set(list(those)[:MOST_VALUES])
        self._values = agreed

    def observe(self, event: Event) -> Observation | None:
        """Return what an event counts for; None: nothing. Never raises: one that cannot be counted
        is said, and keeps its row."""
        observe = _OBSERVERS.get(type(event))
        try:
            return None if observe is None else observe(self, event)
        except Exception:
            logger.exception("rollups: an event of kind %s is not counted", event.kind)
            return None

    def observe_all(self, events: Iterable[Event]) -> list[Observation]:
        """Return what these events count for."""
        seen = map(self.observe, events)
        return [each for each in seen if each is not None]

    def _labels(self, labels: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
        return tuple(
            (name, self._value(values, labels[name]))
            for name, values in self._values.items()
            if name in labels
        )

    def _value(self, values: set[str], told: str) -> str:
        value = str(clean(str(told)))[:MAX_TEXT]
        if value not in values:
            if len(values) >= MOST_VALUES:
                return OTHER
            values.add(value)
        return value

    def _ended(self, event: Any, outcome: str, failure: str) -> Observation:
        output = _bytes(event.stdout_size) + _bytes(event.stderr_size)
        rss = event.max_rss_bytes
        return (
            int(event.at) // MINUTE * MINUTE, _TASK, outcome, failure, "",
            self._labels(event.labels) if self._values else (), 1, _us(event.duration_ms),
            _us(event.queue_ms), _cpu_us(event), None if rss is None else _bytes(rss), output,
        )  # fmt: skip

    def _completed(self, event: TaskCompleted) -> Observation:
        return self._ended(event, "completed", "")

    def _failed(self, event: TaskFailed) -> Observation:
        return self._ended(event, "failed", str(event.failure))

    def _cancelled(self, event: TaskCancelled) -> Observation:
        return self._ended(event, "cancelled", "")

    def _consumed(self, event: Consumed) -> Observation:
        start, size_bytes = int(event.at) // MINUTE * MINUTE, _bytes(event.size_bytes)
        return (start, _INPUT, "", "", "", (), 1, None, None, None, None, size_bytes)

    def _fate(self, event: MessageCompleted) -> Observation:
        start, duration_us = int(event.at) // MINUTE * MINUTE, _us(event.duration_ms)
        return (start, _MESSAGE, str(event.fate), "", "", (), 1, duration_us, None, None, None, 0)

    def _passed_over(self, event: Skipped) -> Observation:
        return _plain(event, Subject.MESSAGE, "skipped", count=event.offsets)

    def _retried(self, event: TaskRetried) -> Observation:
        return _plain(event, Subject.RETRY, failure=str(event.failure))

    def _delivered(self, event: Delivered) -> Observation:
        return (
            int(event.at) // MINUTE * MINUTE, _DELIVERY, "delivered", "", event.sink, (), 1,
            _us(event.duration_ms), _us(event.queue_ms), None, None, 0,
        )  # fmt: skip

    def _refused(self, event: DeliveryFailed) -> Observation:
        kind = "transient" if event.is_transient else "permanent"
        return _plain(event, Subject.DELIVERY, "failed", kind, sink=event.sink)

    def _lettered(self, event: DeadLettered) -> Observation:
        stage, failure = str(event.stage), str(event.failure)
        return _plain(event, Subject.LETTER, stage, failure, sink=event.sink or "")


def _plain(
    event: Event,
    subject: Subject,
    outcome: str = "",
    failure: str = "",
    *,
    sink: str = "",
    count: int = 1,
) -> Observation:
    return (
        int(event.at) // MINUTE * MINUTE, subject.value, outcome, failure, sink, (), count,
        None, None, None, None, 0,
    )  # fmt: skip


_OBSERVERS: Mapping[type[Event], Callable[[Tally, Any], Observation]] = {
    Consumed: Tally._consumed,
    MessageCompleted: Tally._fate,
    Skipped: Tally._passed_over,
    TaskCompleted: Tally._completed,
    TaskFailed: Tally._failed,
    TaskCancelled: Tally._cancelled,
    TaskRetried: Tally._retried,
    Delivered: Tally._delivered,
    DeliveryFailed: Tally._refused,
    DeadLettered: Tally._lettered,
}


@dataclass(slots=True)
class Cell:
    """Sums of one key. Buckets are those of ``domain.log_buckets``, by number; None is unknown."""

    count: int = 0
    duration_us: int = 0
    wait_us: int = 0
    cpu_us: int | None = None
    peak_rss_bytes: int | None = None
    output_bytes: int = 0
    durations: dict[int, int] = field(default_factory=dict)
    waits: dict[int, int] = field(default_factory=dict)

    def add(self, other: Cell) -> None:
        """Add another cell's sums."""
        self.count += other.count
        self.duration_us += other.duration_us
        self.wait_us += other.wait_us
        self.output_bytes += other.output_bytes
        if other.cpu_us is not None:
            self.cpu_us = (self.cpu_us or 0) + other.cpu_us
        if other.peak_rss_bytes is not None:
            self.peak_rss_bytes = max(self.peak_rss_bytes or 0, other.peak_rss_bytes)
        for mine, theirs in ((self.durations, other.durations), (self.waits, other.waits)):
            for bucket, count in theirs.items():
                mine[bucket] = mine.get(bucket, 0) + count


Carried = list[Any]
"""Sums as a row carries them: a list of a key and its cell's values in order, for each cell."""


class Sums:
    """Sums by key. For one thread."""

    def __init__(self) -> None:
        self.cells: dict[Key, Cell] = {}

    def __bool__(self) -> bool:
        return bool(self.cells)

    def add(self, seen: Observation) -> None:
        """Add an observation. Raises TypeError or ValueError for what is none."""
        start, subject, outcome, failure, sink, labels, *figures = seen
        self._observe((start, subject, outcome, failure, sink, "", ""), figures)
        for name, value in labels:
            key = (start, _LABEL, outcome, failure, "", name, value)
            self._observe(key, figures)

    def _observe(self, key: Key, figures: list[Any]) -> None:
        count, duration_us, wait_us, cpu_us, rss_bytes, output_bytes = figures
        cell = self.cells.get(key)
        if cell is None:
            cell = self.cells[key] = Cell()
        cell.count += count
        cell.output_bytes += output_bytes
        if duration_us is not None:
            cell.duration_us += duration_us
            bucket = bucket_of(duration_us)
            cell.durations[bucket] = cell.durations.get(bucket, 0) + 1
        if wait_us is not None:
            cell.wait_us += wait_us
            bucket = bucket_of(wait_us)
            cell.waits[bucket] = cell.waits.get(bucket, 0) + 1
        if cpu_us is not None:
            cell.cpu_us = (cell.cpu_us or 0) + cpu_us
        if rss_bytes is not None and rss_bytes > (cell.peak_rss_bytes or -1):
            cell.peak_rss_bytes = rss_bytes

    def merge(self, carried: Carried) -> None:
        """Add sums that a row carries. Raises TypeError or ValueError for what is none."""
        for key, values in carried:
            self._at(tuple(key)).add(Cell(*values))

    def add_sums(self, other: Sums) -> None:
        """Add other sums; they are left as they are."""
        for key, cell in other.cells.items():
            self._at(key).add(cell)

    def add_events(self, events: Iterable[Event], tally: Tally) -> None:
        """Add what events count for that get no row."""
        for seen in tally.observe_all(events):
            self.add(seen)

    def _at(self, key: Any) -> Cell:
        cell = self.cells.get(key)
        if cell is None:
            cell = self.cells[key] = Cell()
        return cell

    def add_rows(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add what rows carry; what a spool of another release holds instead is said, not
        counted."""
        for row in rows:
            try:
                for seen in row.get("tally", ()):
                    self.add(seen)
                if "sums" in row:
                    self.merge(row["sums"])
            except (TypeError, ValueError) as exc:
                logger.error("recorder: an event is not in the rollups: %s", exc)

    def rounded(self, seconds: int) -> Sums:
        """Return the same by longer spans of time."""
        result = Sums()
        for (start, *rest), cell in self.cells.items():
            result._at((start // seconds * seconds, *rest)).add(cell)
        return result

    def carried(self) -> Carried:
        """Return the sums as a row carries them, bounded by joining minutes."""
        sums = self
        for seconds in (HOUR, DAY):
            if len(sums.cells) > MOST_CELLS:
                sums = sums.rounded(seconds)
        return [
            [list(key), [c.count, c.duration_us, c.wait_us, c.cpu_us, c.peak_rss_bytes,
                         c.output_bytes, c.durations, c.waits]]
            for key, c in sums.cells.items()
        ]  # fmt: skip
