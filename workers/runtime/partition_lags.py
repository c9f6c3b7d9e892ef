"""Lag of each partition over the last minutes, kept in memory for its paces in the heartbeat."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace

from domain.beat import Beat, PartitionBeat
from domain.drain import JUDGED_SECONDS, Paces, paces

EVERY_SECONDS = 10.0
EARLY_SECONDS = 1.0
"""A beat this much before its time is the one to take."""
MOST_SAMPLES = int(JUDGED_SECONDS / EVERY_SECONDS) + 1
Place = tuple[str, int]


class PartitionLags:
    """Samples of the partitions that a run owns, one each ten seconds; for one thread.

    A partition that is not owned, or whose lag is unknown, begins anew: what lies before a gap says
    nothing of now.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._taken_at: float | None = None
        self._samples: dict[Place, deque[tuple[float, float]]] = {}
        self._paces: dict[Place, Paces | None] = {}

    def with_paces(self, beat: Beat) -> Beat:
        """Return the beat with the paces of each partition's lag, where they are known."""
        at = self._now()
        if self._taken_at is None or at - self._taken_at >= EVERY_SECONDS - EARLY_SECONDS:
            self._taken_at = at
            self._take(at, beat.partitions)
        rows = (replace(row, lag_paces=self._paces.get(row.place)) for row in beat.partitions)
        return replace(beat, partitions=tuple(rows))

    def _take(self, at: float, rows: tuple[PartitionBeat, ...]) -> None:
        known = {row.place: row.lag for row in rows if row.lag is not None}
        self._samples = {
            place: self._samples.get(place) or deque(maxlen=MOST_SAMPLES) for place in known
        }
        for place, lag in known.items():
            self._samples[place].append((at, float(lag)))
        self._paces = {place: paces(list(each)) for place, each in self._samples.items()}
