"""Counts of the ended runs of each name, kept in this process until another run ends.

Those of runs that were pruned are among them (``run_retention``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, TypeVar

from django.db.models import BigIntegerField, Count, Max, QuerySet, Subquery, Sum, Value
from django.db.models.fields.json import KT
from django.db.models.functions import Cast, Coalesce

from domain.beat import CounterBeat, SinkBeat
from domain.fate import Fate
from domain.unknown import known_total, total
from recorder.models import PrunedRuns, RunState
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
    """Number of ended runs of a name, what they and those that were pruned counted, and the sinks
    of those that were pruned."""

    count: int = 0
    counters: CounterBeat = field(default_factory=CounterBeat)
    pruned_sinks: tuple[SinkBeat, ...] = ()


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
    found = {(row["run__cluster"], row["run__worker"]): _past(row) for row in rows}
    for pruned in PrunedRuns.objects.all():
        name = pruned.cluster, pruned.worker
        kept = found.get(name, PastRuns())
        counters = summed_counters([pruned.counters, kept.counters])
        found[name] = PastRuns(kept.count, counters, pruned.sinks)
    return version, found


def _past(row: Mapping[str, Any]) -> PastRuns:
    fates = {fate.value: row[f"fate_{fate}"] for fate in Fate if row[f"fate_{fate}"] is not None}
    counts = {name: row[name] for name in COUNTERS}
    return PastRuns(row["n"], CounterBeat(**counts, fates=fates))


def summed_counters(parts: Sequence[CounterBeat]) -> CounterBeat:
    """Return what these counted together, as far as it is known."""
    counts: dict[str, Any] = {
        name: known_total(getattr(part, name) for part in parts) for name in COUNTERS
    }
    fates = {fate.value: known_total(part.fates.get(fate) for part in parts) for fate in Fate}
    known = {name: count for name, count in fates.items() if count is not None}
    return CounterBeat(**counts, fates=known)


def summed_sinks(every: Sequence[SinkBeat]) -> SinkBeat:
    """Return sums and latest figures of one sink over several runs, oldest first."""
    counts = [sink.latency_counts for sink in every if sink.latency_counts]
    by_class: Counter[str] = Counter()
    for sink in every:
        by_class.update(sink.errors_by_class)
    newest = max(every, key=lambda sink: sink.last_delivery_at or 0.0)
    failed = max(every, key=lambda sink: sink.last_error_at or 0.0)
    return SinkBeat(
        name=every[-1].name,
        kind=every[-1].kind,
        delivered=total(sink.delivered for sink in every),
        errors=total(sink.errors for sink in every),
        retries=total(sink.retries for sink in every),
        errors_by_class=by_class,
        latency_counts=tuple(sum(column) for column in zip(*counts, strict=True)),
        last_delivery_at=newest.last_delivery_at,
        last_duration_ms=newest.last_duration_ms,
        last_error=failed.last_error,
        last_error_class=failed.last_error_class,
        last_error_at=failed.last_error_at,
    )


TOTALS = CachedTotals(_counted)
