"""Estimates of when nothing waits any more: a range, by how the lag moved over the last minutes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import ceil, floor

JUDGED_SECONDS = 300.0
WINDOW_SECONDS = 60.0
LEAST_PACE = 0.05
"""Messages a second below which a lag neither grows nor falls."""
MINUTE, HOUR, DAY = 60.0, 3600.0, 86_400.0
Paces = tuple[float, float]
"""Quartiles of the change of a lag in messages a second (below 0: it falls), the lower first."""


class Course(StrEnum):
    """Ways that a lag may go."""

    UNKNOWN = "unknown"
    EMPTY = "empty"
    FALLS = "falls"
    STEADY = "steady"
    GROWS = "grows"


@dataclass(frozen=True, slots=True, kw_only=True)
class Drain:
    """Course of a lag; ``soonest_seconds`` and ``latest_seconds`` until nothing waits where it
    falls, the latest None where the slower quarter of the time did not bring it down."""

    course: Course
    per_second: float | None = None
    soonest_seconds: float | None = None
    latest_seconds: float | None = None

    @property
    def pace(self) -> float | None:
        """Return its speed, either way; None: unknown."""
        return None if self.per_second is None else abs(self.per_second)

    @property
    def words(self) -> str:
        """Say when it is drained, or that it is not."""
        if self.course is Course.FALLS and self.soonest_seconds is not None:
            return f"drained in {_range(self.soonest_seconds, self.latest_seconds)}"
        return _WORDS[self.course]


_WORDS = {
    Course.UNKNOWN: "when it is drained is unknown",
    Course.EMPTY: "nothing waits",
    Course.FALLS: "falls",
    Course.STEADY: "steady, does not drain",
    Course.GROWS: "grows, does not drain",
}


def paces(points: Sequence[tuple[float, float]]) -> Paces | None:
    """Return how fast a lag changed over the last five minutes, a minute at a time; None: it is
    known for less than a minute. ``points`` are seconds and messages, oldest first, no gaps."""
    recent = [each for each in points if each[0] >= points[-1][0] - JUDGED_SECONDS]
    changes, first = [], 0
    for at, lag in recent:
        while first + 1 < len(recent) and at - recent[first + 1][0] >= WINDOW_SECONDS:
            first += 1
        seconds = at - recent[first][0]
        if seconds >= WINDOW_SECONDS:
            changes.append((lag - recent[first][1]) / seconds)
    if not changes:
        return None
    changes.sort()
    last = len(changes) - 1
    return changes[round(last * 0.25)], changes[round(last * 0.75)]


def drain(lag: float | None, seen: Paces | None) -> Drain:
    """Return the estimate for what waits now at the paces seen."""
    if lag == 0:
        return Drain(course=Course.EMPTY)
    if lag is None or seen is None:
        return Drain(course=Course.UNKNOWN)
    fastest, slowest = seen
    middle = (fastest + slowest) / 2
    if middle > LEAST_PACE:
        return Drain(course=Course.GROWS, per_second=middle)
    if middle >= -LEAST_PACE:
        return Drain(course=Course.STEADY, per_second=middle)
    return Drain(
        course=Course.FALLS,
        per_second=middle,
        soonest_seconds=lag / -fastest,
        latest_seconds=lag / -slowest if slowest < -LEAST_PACE else None,
    )


def _range(soonest: float, latest: float | None) -> str:
    """Say a range in one unit, never narrower than it is."""
    longest = soonest if latest is None else latest
    unit, name = next(each for each in _UNITS if longest < each[2])[:2]
    low = floor(soonest / unit)
    if latest is None:
        return f"{low} {name} or more" if low else f"a {_NAMES[name]} or more"
    high = ceil(latest / unit)
    if high <= 1:
        return f"under a {_NAMES[name]}" if name == "min" else f"up to 1 {name}"
    if not low:
        return f"up to {high} {name}"
    return f"{low} to {high} {name}" if low < high else f"{high} {name}"


_UNITS = ((MINUTE, "min", 2 * HOUR), (HOUR, "h", 2 * DAY), (DAY, "d", float("inf")))
_NAMES = {"min": "minute", "h": "hour", "d": "day"}
