"""Rates of clusters out of the rollups: now and in the hour before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from recorder.rollups.reading import Dimension, Measure, Scope, series, totals

NOW = timedelta(minutes=5)
FAILING = timedelta(minutes=1)
"""With the minute that runs: so long tasks are looked at for their failures."""
BEFORE_ENDS, BEFORE = timedelta(minutes=10), timedelta(hours=1)
LEAST_FAILURES = 20
MOST_FAILING_SHARE = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Failing:
    """Attempts of a cluster's tasks in the last minute and the one that runs, and those that
    failed."""

    count: int
    failures: int

    @property
    def share(self) -> float:
        """Share that failed."""
        return self.failures / self.count if self.count else 0.0

    @property
    def is_much(self) -> bool:
        """Whether so many failed that it is a fault of its own."""
        return self.failures >= LEAST_FAILURES and self.share >= MOST_FAILING_SHARE


def failing(now: datetime, cluster: str = "") -> dict[str, Failing]:
    """Return the clusters whose tasks fail, most of them. Raises DatabaseError."""
    rows = totals(Scope(cluster=cluster), now - FAILING, now, Dimension.CLUSTER)
    found = {row.value: Failing(count=row.count, failures=row.failures) for row in rows}
    return {name: each for name, each in found.items() if each.is_much}


def speeds(cluster: str, now: datetime) -> Mapping[str, Any]:
    """Return figures of ``LagFigures``: how long tasks take and how many messages come, now and
    before; None where nothing is recorded. Raises DatabaseError."""
    scope, edge = Scope(cluster=cluster), now - BEFORE_ENDS
    return {
        "p50_ms": _p50_ms(scope, now - NOW, now),
        "p50_ms_before": _p50_ms(scope, edge - BEFORE, edge),
        "input_per_second": _input_per_second(scope, now - NOW, now),
        "input_per_second_before": _input_per_second(scope, edge - BEFORE, edge),
    }


def _p50_ms(scope: Scope, since: datetime, until: datetime) -> float | None:
    rows = totals(scope, since, until, Dimension.CLUSTER)
    return rows[0].p50_ms if rows else None


def _input_per_second(scope: Scope, since: datetime, until: datetime) -> float | None:
    """Return the mean of the whole minutes between; None: nothing came, or it is not known."""
    since, until = since.replace(second=0, microsecond=0), until.replace(second=0, microsecond=0)
    lines = series(scope, Measure.INPUT, since, until, 60).lines
    total = sum(value for value in lines[0].values if value) if lines else 0.0
    return total / (until - since).total_seconds() if total else None
