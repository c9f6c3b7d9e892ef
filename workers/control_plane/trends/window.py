"""Time that charts show: from when to when, in which steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from domain.paging import BadFilter
from recorder.timestamps import EXPECTED, moment_of

RANGES = {
    "15m": timedelta(minutes=15),
    "1h": timedelta(hours=1),
    "6h": timedelta(hours=6),
    "24h": timedelta(hours=24),
    "7d": timedelta(days=7),
    "30d": timedelta(days=30),
    "90d": timedelta(days=90),
}
"""Ranges up to now that are offered, by name."""
DEFAULT_RANGE = "1h"
MINUTE, HOUR, DAY = 60, 3600, 86_400
UNITS = (("day", DAY), ("hour", HOUR), ("minute", MINUTE))
STEPS_SECONDS = (
    MINUTE, 2 * MINUTE, 5 * MINUTE, 10 * MINUTE, 15 * MINUTE, 30 * MINUTE,
    HOUR, 2 * HOUR, 3 * HOUR, 6 * HOUR, 12 * HOUR, DAY, 2 * DAY,
)  # fmt: skip
MOST_POINTS = 300
"""Steps of a chart at most."""
LONGEST = timedelta(days=400)
LEAST = timedelta(minutes=2)
MINUTES_KEPT = timedelta(days=7)
"""Older than this there are only hours."""
SETTLED_SECONDS = 5.0
"""Age of a minute's end at which what was told in it is stored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """``since`` to ``until`` in whole steps, but for the last, which ends at ``until``.

    ``range``: its name where it ends now and goes on with the clock; empty where it stands still.
    """

    since: datetime
    until: datetime
    step_seconds: int
    range: str = ""

    @property
    def starts(self) -> list[int]:
        """Return when each step begins, in UTC epoch seconds."""
        first, end = int(self.since.timestamp()), self.until.timestamp()
        return [
            at for at in range(first, int(end) + self.step_seconds, self.step_seconds) if at < end
        ]

    @property
    def step(self) -> str:
        """Return the length of a step in words."""
        unit, seconds = next((u, n) for u, n in UNITS if self.step_seconds >= n)
        count = self.step_seconds // seconds
        return unit if count == 1 else f"{count} {unit}s"

    def covered_seconds(self, start: int) -> float:
        """Return how much of the step that begins there has passed."""
        return min(self.step_seconds, self.until.timestamp() - start)

    def before(self) -> Window:
        """Return the window of the same steps that ends where this one begins."""
        length = timedelta(seconds=len(self.starts) * self.step_seconds)
        return Window(since=self.since - length, until=self.since, step_seconds=self.step_seconds)


def window_of(asked: Mapping[str, str], now: datetime) -> Window:
    """Return the window of a query: ``since`` and ``until``, else a ``range`` up to now. Raises
    BadFilter."""
    name = asked.get("range", "").strip()
    if name and name not in RANGES:
        raise BadFilter(f"range: expected one of {', '.join(RANGES)}, got {name[:40]}")
    given = _moment(asked, "since", now)
    if given is None:
        if asked.get("until", "").strip():
            raise BadFilter("until: expected a since beside it; say from when")
        name = name or DEFAULT_RANGE
        return _stepped(now - RANGES[name], now, now, name)
    until = min(_moment(asked, "until", now) or now, now)
    if until - given < LEAST:
        raise BadFilter(
            f"since: expected at least two minutes before until, got {given:%Y-%m-%d %H:%M}"
        )
    if until - given > LONGEST:
        raise BadFilter(
            f"since: expected at most {LONGEST.days} days before until, got {given:%Y-%m-%d}"
        )
    return _stepped(given, until, now)


def _moment(asked: Mapping[str, str], name: str, now: datetime) -> datetime | None:
    text = asked.get(name, "").strip()
    if not text:
        return None
    found = moment_of(text, now)
    if found is None:
        raise BadFilter(f"{name}: expected {EXPECTED}, got {text[:40]}")
    return found


def _stepped(since: datetime, until: datetime, now: datetime, name: str = "") -> Window:
    """Return the window in the finest steps that are not too many, on the clock's own borders.

    The minute that runs is left out: it would look like a fall.
    """
    settled = _floor(now - timedelta(seconds=SETTLED_SECONDS), MINUTE)
    is_old = now - since > MINUTES_KEPT or (until - since).total_seconds() > DAY
    until = min(until, settled) if name else min(_ceil(until, MINUTE), settled)
    seconds = (until - since).total_seconds()
    step = next(
        each
        for each in STEPS_SECONDS
        if seconds / each <= MOST_POINTS - 1 and (each >= HOUR or not is_old)
    )
    since = _floor(since, step)
    if step < HOUR and (until - since).total_seconds() > DAY:  # beyond it there are only hours
        since += timedelta(seconds=step)
    return Window(since=since, until=until, step_seconds=step, range=name)


def _floor(at: datetime, seconds: int) -> datetime:
    return datetime.fromtimestamp(at.timestamp() // seconds * seconds, UTC)


def _ceil(at: datetime, seconds: int) -> datetime:
    return datetime.fromtimestamp(-(-at.timestamp() // seconds) * seconds, UTC)
