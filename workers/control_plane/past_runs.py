"""Counts of the ended runs of each name, kept in this process until another run ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, TypeVar

from django.db.models import BigIntegerField, Count, Max, QuerySet, Subquery, Sum, Value
from django.db.models.fields.json import KT
from django.db.models.functions import Cast, Coalesce

from domain.beat import CounterBeat
from domain.fate import Fate
from recorder.models import RunState
from workers.runtime.metric_history import COUNTERS

ENDED_STATES = ("stopped", "lost")
Scope = tuple[str, str]
Version = tuple[int, datetime | None]
"""Number of ended runs, and the latest beat of them: while it stays, so do the sums."""
T = TypeVar("T")


@dataclass(slots=True)
class CachedTotals(Generic[T]):
    """Newest value that was read, and the version it was read at."""

    read: Callable[[], tuple[Version, T]]
    _held: tuple[Version, T] | None = None

    def at(self, version: Version) -> tuple[Version, T]:
        """Return the value of that version; one of another version when runs ended while it was
        read."""
        held = self._held
        if held is None or held[0] != version:
            held = self._held = self.read()
        return held


def ended() -> QuerySet[RunState]:
    """Return the beats of all runs that have ended."""
    return RunState.objects.filter(state__in=ENDED_STATES)


def mark_columns() -> dict[str, Any]:
    """Columns ``ended_count`` and ``ended_until``: the version, as of their statement."""
    same = ended().order_by().annotate(one=Value(1)).values("one")
    count = Subquery(same.annotate(n=Count("*")).values("n"), output_field=BigIntegerField())
    return {
        "ended_count": Coalesce(count, 0),
        "ended_until": Subquery(same.annotate(last=Max("beat_at")).values("last")),
    }


def version_of(beat: RunState) -> Version:
    """Return the version that a beat was read with."""
    return beat.ended_count, beat.ended_until  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True)
class PastRuns:
    """Number of ended runs of a name, and what they counted."""

    count: int = 0
    counters: CounterBeat = field(default_factory=CounterBeat)


def _counted() -> tuple[Version, dict[Scope, PastRuns]]:
    sums = {
        name: Sum(Cast(KT(f"counters__{path}"), BigIntegerField()))
        for name, path in [
            *((n, n) for n in COUNTERS),
            *((f"fate_{n}", f"fates__{n}") for n in Fate),
        ]
    }
    names = ended().order_by().values("run__cluster", "run__worker")
    rows = list(names.annotate(n=Count("*"), last=Max("beat_at"), **sums))
    version = sum(row["n"] for row in rows), max((row["last"] for row in rows), default=None)
    return version, {(row["run__cluster"], row["run__worker"]): _past(row) for row in rows}


def _past(row: Mapping[str, Any]) -> PastRuns:
    fates = {fate.value: row[f"fate_{fate}"] for fate in Fate if row[f"fate_{fate}"] is not None}
    counts = {name: row[name] for name in COUNTERS}
    return PastRuns(row["n"], CounterBeat(**counts, fates=fates))


TOTALS = CachedTotals(_counted)
