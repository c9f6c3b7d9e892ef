"""What the ended runs of each name counted, kept in this process until another run ends."""

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
Mark = tuple[int, datetime | None]
"""How many runs have ended, and the latest beat of them: the same mark, the same sums."""
T = TypeVar("T")


@dataclass(slots=True)
class CachedTotals(Generic[T]):
    """The newest value that was read, and the mark it was read at."""

    read: Callable[[], tuple[Mark, T]]
    _held: tuple[Mark, T] | None = None

    def at(self, mark: Mark) -> tuple[Mark, T]:
        """The value of that mark; one of another mark when runs ended while it was read."""
        held = self._held
        if held is None or held[0] != mark:
            held = self._held = self.read()
        return held


def ended() -> QuerySet[RunState]:
    """The beats of all runs that have ended."""
    return RunState.objects.filter(state__in=ENDED_STATES)


def mark_columns() -> dict[str, Any]:
    """Columns ``ended_count`` and ``ended_until``: the mark, as of the statement they stand in."""
    same = ended().order_by().annotate(one=Value(1)).values("one")
    count = Subquery(same.annotate(n=Count("*")).values("n"), output_field=BigIntegerField())
    return {
        "ended_count": Coalesce(count, 0),
        "ended_until": Subquery(same.annotate(last=Max("beat_at")).values("last")),
    }


def mark_of(beat: RunState) -> Mark:
    """The mark that a beat was read with."""
    return beat.ended_count, beat.ended_until  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True)
class PastRuns:
    """How many runs of a name ended, and what they counted."""

    count: int = 0
    counters: CounterBeat = field(default_factory=CounterBeat)


def _counted() -> tuple[Mark, dict[Scope, PastRuns]]:
    sums = {
        name: Sum(Cast(KT(f"counters__{path}"), BigIntegerField()))
        for name, path in [
            *((n, n) for n in COUNTERS),
            *((f"fate_{n}", f"fates__{n}") for n in Fate),
        ]
    }
    names = ended().order_by().values("run__cluster", "run__worker")
    rows = list(names.annotate(n=Count("*"), last=Max("beat_at"), **sums))
    mark = sum(row["n"] for row in rows), max((row["last"] for row in rows), default=None)
    return mark, {(row["run__cluster"], row["run__worker"]): _past(row) for row in rows}


def _past(row: Mapping[str, Any]) -> PastRuns:
    fates = {fate.value: row[f"fate_{fate}"] for fate in Fate if row[f"fate_{fate}"] is not None}
    counts = {name: row[name] for name in COUNTERS}
    return PastRuns(row["n"], CounterBeat(**counts, fates=fates))


TOTALS = CachedTotals(_counted)
