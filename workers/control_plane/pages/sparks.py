"""Sparklines of the dashboard: the last ten minutes as the runs themselves kept them.

Unknown is a gap. A figure is the sum over the runs that were there at that time, and is unknown
where one of them is, or where none was.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice, zip_longest
from operator import sub
from typing import Any

from domain.unknown import total
from recorder.models import RunTrack
from workers.control_plane.queries import LIVE_STATES
from workers.runtime.metric_history import COUNTERS, COUNTS, EVERY_SECONDS, LAG, LATENCY, OWNED

POINTS = 60
BEHIND_SECONDS = 15.0
"""Age of the last point at least: each live run has sampled and written what lies before it."""
GAP_SECONDS = 25.0
"""Two samples further apart leave the time between them unknown."""
RECENT_POINTS = 6
SHARE = 0.95
WIDTH, HEIGHT = 100.0, 24.0
Pair = tuple[Sequence[Any], Sequence[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spark:
    """Figure at each point, oldest first, and what to say of it."""

    values: Sequence[float | None]
    recent: float | None
    """Its mean over the last minute; None: unknown."""

    @property
    def line(self) -> str:
        """Path of the line, one stretch for each run of known points; empty: nothing known."""
        return "".join(_path(stretch) for stretch in self._stretches())

    @property
    def area(self) -> str:
        """Path of the area below it."""
        return "".join(
            f"{_path(stretch)}L{stretch[-1][0]:.1f} {HEIGHT:g}L{stretch[0][0]:.1f} {HEIGHT:g}Z"
            for stretch in self._stretches()
        )

    def _stretches(self) -> list[list[tuple[float, float]]]:
        known = [value for value in self.values if value is not None]
        low, top = min(known, default=0.0) * 0.8, max(known, default=0.0)
        step, is_open = WIDTH / (len(self.values) - 1), False
        found: list[list[tuple[float, float]]] = []
        for n, value in enumerate(self.values):
            if value is not None:
                if not is_open:
                    found.append([])
                rise = (value - low) / ((top - low) or 1.0) * (HEIGHT - 5)
                found[-1].append((n * step, HEIGHT - 2 - rise))
            is_open = value is not None
        return found


def _path(points: Sequence[tuple[float, float]]) -> str:
    # A point alone is a short stroke.
    last = points[-1]
    drawn = [*points, (last[0] + 0.5, last[1])] if len(points) == 1 else points
    return "".join(f"{'L' if n else 'M'}{x:.1f} {y:.1f}" for n, (x, y) in enumerate(drawn))


@dataclass(frozen=True, slots=True)
class _Kept:
    """Samples of a run, with their times apart: they are looked up sixty times."""

    samples: Sequence[Any]
    times: Sequence[float]
    is_live: bool

    def is_there(self, at: float) -> bool:
        """Tell whether the run worked at that time; a live one goes on after its last sample."""
        return self.times[0] <= at and (self.is_live or at < self.times[-1])

    def pair(self, at: float) -> Pair | None:
        """Return the samples around that time; None: there is none near enough."""
        after = bisect_right(self.times, at)
        if not 0 < after < len(self.times):
            return None
        is_near = self.times[after] - self.times[after - 1] <= GAP_SECONDS
        return (self.samples[after - 1], self.samples[after]) if is_near else None


def _kept(tracks: Iterable[RunTrack]) -> list[_Kept]:
    return [
        _Kept(each.samples, [at for at, *_ in each.samples], each.run.beat.state in LIVE_STATES)
        for each in tracks
        if each.samples
    ]


def sparks(tracks: Iterable[RunTrack], now: datetime) -> dict[str, Any]:
    """Return a ``Spark`` by figure, and ``way`` of the lag (None: unknown)."""
    given = list(tracks)
    kept = _kept(given)
    moments = [_pairs(kept, at) for at in _times(now)]
    found: dict[str, Any] = {
        name: _spark([total(_rate(pair, n) for pair in pairs) for pairs in moments])
        for n, name in enumerate(COUNTERS)
    }
    lag = [total(_lags(pairs)) for pairs in moments]
    bounds: list[float] = max(
        (track.bounds for track in given if track.samples), key=len, default=[]
    )
    spread = [_latencies(pairs, len(bounds)) for pairs in moments]
    recent = [sum(column) for column in zip(*filter(None, spread[-RECENT_POINTS:]), strict=True)]
    found["lag"] = _spark(lag)
    found["latency"] = Spark(
        values=[bound_ms(bounds, counts) for counts in spread], recent=bound_ms(bounds, recent)
    )
    return found


def lags(tracks: Iterable[RunTrack], now: datetime) -> list[tuple[float, float | None]]:
    """Return the lag of these runs at each point, oldest first: UTC epoch seconds, and it."""
    kept = _kept(tracks)
    return [(at, total(_lags(_pairs(kept, at)))) for at in _times(now)]


def _times(now: datetime) -> list[float]:
    end = now.timestamp() // EVERY_SECONDS * EVERY_SECONDS - BEHIND_SECONDS
    return [end - EVERY_SECONDS * n for n in reversed(range(POINTS))]


def _pairs(kept: Sequence[_Kept], at: float) -> list[Pair | None]:
    """Return the samples around that time of the runs that worked then."""
    return [run.pair(at) for run in kept if run.is_there(at)]


def _spark(values: Sequence[float | None]) -> Spark:
    recent = [value for value in values[-RECENT_POINTS:] if value is not None]
    return Spark(values=values, recent=sum(recent) / len(recent) if recent else None)


def _rate(pair: Pair | None, n: int) -> float | None:
    if pair is None:
        return None
    first, last = pair[0][COUNTS][n], pair[1][COUNTS][n]
    if first is None or last is None:
        return None
    return float(max(0.0, (last - first) / (pair[1][0] - pair[0][0])))


def _lags(pairs: Sequence[Pair | None]) -> list[float | None]:
    """Return the lag of each run that owned anything, None where it is unknown."""
    return [pair[0][LAG] if pair else None for pair in pairs if not pair or pair[0][OWNED]]


def _latencies(pairs: Sequence[Pair | None], buckets: int) -> list[int]:
    """Messages by latency; empty where a run's are unknown."""
    grown = []
    for pair in pairs:
        if pair is None or not pair[0][LATENCY] or not pair[1][LATENCY]:
            return []
        grown.append([n if n > 0 else 0 for n in map(sub, pair[1][LATENCY], pair[0][LATENCY])])
    counts = [sum(column) for column in islice(zip_longest(*grown, fillvalue=0), buckets + 1)]
    return counts + [0] * (buckets + 1 - len(counts))


def bound_ms(bounds: Sequence[float], counts: Sequence[int]) -> float | None:
    """Return the bound below which 95 % of the messages stayed; None without messages."""
    need, below = SHARE * sum(counts), 0
    if not need:
        return None
    for n, count in enumerate(counts):
        below += count
        if below >= need:
            return (bounds[n] if n < len(bounds) else bounds[-1]) * 1000.0
    return None
