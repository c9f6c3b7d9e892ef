"""Figures of a moment, looked at again and again: how a run's lag and slots were over time.

A run is the only writer of its rows, and has a minute's, an hour's and a day's figures in memory
until they are over. A row is replaced as a whole, so it may be written twice; what could not be
written while Postgres was away is written later.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

from recorder.models import Gauge
from recorder.rollups.projection import source_of
from recorder.rollups.sums import DAY, HOUR, MINUTE
from recorder.runs import RunDescription

WRITE_SECONDS = 10.0
"""Least time between two writes."""
MOST_UNWRITTEN = 20_000
"""Rows that wait while Postgres is away: about two days. The oldest go first."""
KEY = ["step", "name", "start", "source", "run"]
VALUES = ["count", "total", "least", "most", "last"]


@dataclass(slots=True)
class _Figure:
    """Looks at one gauge within one span of time."""

    count: int
    total: float
    least: float
    most: float
    last: float

    def add(self, value: float) -> None:
        self.count += 1
        self.total += value
        self.least, self.most = min(self.least, value), max(self.most, value)
        self.last = value


Place = tuple[int, int, str]
"""Step in seconds, its start, and the gauge's name."""


class Gauges:
    """Gauges of one run. ``note`` is for any thread, ``write`` for one that has a connection."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._figures: dict[Place, _Figure] = {}
        self._unwritten: dict[Place, None] = {}
        self._write_at = 0.0

    def note(self, at: float, figures: Mapping[str, float | None]) -> None:
        """Take a look; ``at`` is in UTC epoch seconds, None is unknown and leaves no trace."""
        with self._lock:
            for name, value in figures.items():
                if value is None or not isfinite(value):
                    continue
                for step in (MINUTE, HOUR, DAY):
                    self._add((step, int(at // step) * step, name), float(value))
            while len(self._unwritten) > MOST_UNWRITTEN:
                oldest = next(iter(self._unwritten))
                del self._unwritten[oldest]
                self._figures.pop(oldest, None)

    def _add(self, place: Place, value: float) -> None:
        known = self._figures.get(place)
        if known is None:
            self._figures[place] = _Figure(1, value, value, value, value)
        else:
            known.add(value)
        self._unwritten[place] = None

    def write(self, run: RunDescription, now: float, wall: float, *, is_last: bool = False) -> None:
        """Replace the rows of what was noted, when it is time or the last one. ``now`` is monotonic
        seconds, ``wall`` epoch seconds. Raises DatabaseError; then the next call writes."""
        if now < self._write_at and not is_last:
            return
        with self._lock:
            places = list(self._unwritten)
            taken = [
                (place, (each.count, each.total, each.least, each.most, each.last))
                for place in places
                if (each := self._figures.get(place)) is not None
            ]
        if not taken:
            return
        source = source_of(run)
        rows = [
            Gauge(step=step, start=start, name=name, run=run.id, source=source,
                  **dict(zip(VALUES, values, strict=True)))
            for (step, start, name), values in taken
        ]  # fmt: skip
        Gauge.objects.bulk_create(
            rows, batch_size=1_000, update_conflicts=True, unique_fields=KEY, update_fields=VALUES
        )
        self._write_at = now + WRITE_SECONDS
        self._forget(taken, wall)

    def _forget(self, taken: Sequence[tuple[Place, tuple[float, ...]]], wall: float) -> None:
        """Drop what is written and over; what was added to meanwhile stays."""
        with self._lock:
            for place, (count, *_) in taken:
                known = self._figures.get(place)
                if known is None or known.count == count:
                    self._unwritten.pop(place, None)
                    if place[1] + place[0] < wall - MINUTE:
                        self._figures.pop(place, None)
