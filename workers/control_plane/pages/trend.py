"""Movement of lag and spools, by the last ten minutes that the runs themselves kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise, takewhile
from statistics import median
from typing import Any
from uuid import UUID

from domain.drain import Paces, paces
from recorder.models import RunTrack
from workers.control_plane.pages.sparks import BEHIND_SECONDS, GAP_SECONDS, lags
from workers.runtime.metric_history import SHED, SPOOLED

JUDGED_SECONDS = 300.0
LEAST_SECONDS = 60.0
LEAST_SAMPLES = 6
LEAST_SHARE = 0.1
LEAST_LAG = 100
LEAST_SPOOLED_BYTES = 100_000
Point = tuple[float, float | None]
"""UTC epoch seconds, and the figure then; None: unknown."""
Sample = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Slope:
    """Direction of a figure: units a second (falling: below 0), judged over five minutes."""

    value: float
    per_second: float
    lowest: float
    seconds: float
    """Since it was lowest, in the time it is known through."""
    is_steady: bool
    """Whether each third of the time stands above the third before, by a tenth in all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rise:
    """Latest of a count, and when it last grew in UTC epoch seconds; None: not in the time that was
    kept."""

    count: float
    at: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trend:
    """Slopes of the lag by cluster and of the spool by run, and what each run shed; what is missing
    is unknown."""

    lag: Mapping[str, Slope] = field(default_factory=dict)
    spool: Mapping[UUID, Slope] = field(default_factory=dict)
    shed: Mapping[UUID, Rise] = field(default_factory=dict)


def trend(tracks: Iterable[RunTrack], now: datetime) -> Trend:
    """Return what these runs kept; a cluster's lag is that of the runs given."""
    kept = list(tracks)
    spools = {track.run_id: _fresh(_points(track, SPOOLED), now) for track in kept}
    rises = {track.run_id: rise(_points(track, SHED)) for track in kept}
    return Trend(
        lag=lag_slopes(kept, now),
        spool=_known(spools, LEAST_SPOOLED_BYTES, now),
        shed={run: found for run, found in rises.items() if found is not None},
    )


def lag_slopes(tracks: Sequence[RunTrack], now: datetime) -> dict[str, Slope]:
    """Return slopes by cluster, without those whose lag is unknown now or lately."""
    clusters = {track.run.cluster for track in tracks}
    points = {name: lags([t for t in tracks if t.run.cluster == name], now) for name in clusters}
    return _known(points, LEAST_LAG, now)


def lag_paces(tracks: Sequence[RunTrack], now: datetime) -> dict[str, Paces]:
    """Return how fast the lag of each cluster changed, without those where it is unknown."""
    clusters = {track.run.cluster for track in tracks}
    points = {name: lags([t for t in tracks if t.run.cluster == name], now) for name in clusters}
    found = {name: paces(_known_through(each)) for name, each in points.items()}
    return {name: seen for name, seen in found.items() if seen is not None}


def _known(points: Mapping[Any, Sequence[Point]], least: float, now: datetime) -> dict[Any, Slope]:
    slopes = {name: slope(each, least, now.timestamp()) for name, each in points.items()}
    return {name: found for name, found in slopes.items() if found is not None}


def _points(track: RunTrack, place: int) -> list[Point]:
    """Return a figure of each sample; unknown where samples lack it."""
    return [(each[0], each[place] if len(each) > place else None) for each in track.samples]


def _fresh(points: list[Point], now: datetime) -> list[Point]:
    """Return the points; none of a run that fell silent."""
    is_silent = points and now.timestamp() - points[-1][0] > BEHIND_SECONDS + GAP_SECONDS
    return [] if is_silent else points


def rise(points: Sequence[Point]) -> Rise | None:
    """Return when a count last grew; None: it is unknown."""
    known = [(at, value) for at, value in points if value is not None]
    if not known:
        return None
    grown = [at for (_, before), (at, value) in pairwise(known) if value > before]
    return Rise(count=known[-1][1], at=max(grown, default=None))


def slope(points: Sequence[Point], least: float, now: float) -> Slope | None:
    """Return the way from the first to the last third; None with less than a minute known
    through."""
    known = _known_through(points)
    recent = [each for each in known if each[0] >= known[-1][0] - JUDGED_SECONDS]
    if len(recent) < LEAST_SAMPLES or recent[-1][0] - recent[0][0] < LEAST_SECONDS:
        return None
    times, values = zip(*recent, strict=True)
    third = len(values) // 3
    first, last = median(values[:third]), median(values[-third:])
    middle = median(values[third:-third])
    grown = last - first >= max(least, LEAST_SHARE * first)
    lowest = min(reversed(known), key=lambda each: each[1])
    return Slope(
        value=values[-1],
        per_second=(last - first) / (median(times[-third:]) - median(times[:third])),
        lowest=lowest[1],
        seconds=max(0.0, now - lowest[0]),
        is_steady=grown and first < middle < last,
    )


def _known_through(points: Sequence[Point]) -> list[Sample]:
    """Return the last stretch without an unknown figure or a gap; empty: it is unknown now."""
    later = [at for at, _ in points[1:]] + [at for at, _ in points[-1:]]
    backwards = zip(reversed(points), reversed(later), strict=True)
    whole = takewhile(
        lambda each: each[0][1] is not None and each[1] - each[0][0] <= GAP_SECONDS, backwards
    )
    return [(at, float(value)) for (at, value), _ in whole if value is not None][::-1]
