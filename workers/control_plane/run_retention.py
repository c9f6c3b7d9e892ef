"""Deletes runs with their events; what they counted stays, as sums by name (``PrunedRuns``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import chain, groupby
from uuid import UUID

from django.db import transaction
from django.db.models import Q, QuerySet

from domain.beat import CounterBeat, SinkBeat
from recorder.models import Event, PrunedRuns, Run, RunState, StoredRun
from recorder.reading import STRAY, of_runs
from workers.control_plane.deployments import HAS_CHANGES
from workers.control_plane.past_runs import ENDED_STATES, summed_counters, summed_sinks

STEP_RUNS = 100
TURN_STEPS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRetention:
    """Days that a run stays after its end: as its events, or, where it was started with other
    versions or settings than the run before, as charts tell of these."""

    days: int
    changed_days: int


def prune_runs(retention: RunRetention, now: datetime, steps: int = TURN_STEPS) -> int:
    """Delete the oldest runs that are past their days and of which no event is left, 100 a
    transaction, at most so many ``steps``; how many went.

    The latest run of each name stays. Raises DatabaseError; what went before stays gone.
    """
    count, after = 0, UUID(int=0)
    for _ in range(steps):
        aged = aged_runs(retention, now).filter(id__gt=after).order_by("id")
        ids = list(aged.values_list("id", flat=True)[:STEP_RUNS])
        told = set(Event.objects.filter(of_runs(ids)).values_list("run", flat=True).distinct())
        count += _delete([run for run in ids if run not in told])
        if len(ids) < STEP_RUNS:
            break
        after = ids[-1]
    return count


def aged_runs(retention: RunRetention, now: datetime) -> QuerySet[Run]:
    """Return the runs that are past their days, in no order."""
    today = datetime.combine(now.astimezone(UTC).date(), datetime.min.time(), UTC)
    edge = today - timedelta(days=retention.days) - STRAY
    ended = Q(beat__state__in=ENDED_STATES, beat__beat_at__lt=edge)
    never_beat = Q(beat__isnull=True, started_at__lt=edge)
    beaten = Run.objects.filter(beat__isnull=False)
    latest = beaten.order_by("cluster", "worker", "-started_at").distinct("cluster", "worker")
    changed_edge = now - timedelta(days=retention.changed_days)
    shown = Run.objects.filter(HAS_CHANGES, started_at__gte=changed_edge)
    found = Run.objects.filter(ended | never_beat)
    return found.exclude(id__in=latest.values("id")).exclude(id__in=shown.values("id"))


@transaction.atomic
def _delete(ids: Sequence[UUID]) -> int:
    """Delete these runs, but for one that beats again."""
    states = RunState.objects.select_for_update(of=("self",)).filter(run__in=ids)
    beats = list(states.select_related("run").order_by("run__cluster", "run__worker", "run"))
    living = {beat.run_id for beat in beats if beat.state not in ENDED_STATES}
    for (cluster, worker), own in groupby(beats, lambda beat: (beat.run.cluster, beat.run.worker)):
        if over := [beat for beat in own if beat.run_id not in living]:
            _keep_sums(cluster, worker, over)
    gone = [run for run in ids if run not in living]
    Run.objects.filter(id__in=gone).delete()
    StoredRun.objects.filter(id__in=gone).delete()
    return len(gone)


def _keep_sums(cluster: str, worker: str, beats: Sequence[RunState]) -> None:
    """Add what these runs of a name counted, oldest first, to what is kept of those before."""
    kept, _ = PrunedRuns.objects.select_for_update().get_or_create(cluster=cluster, worker=worker)
    counters: list[CounterBeat] = [kept.counters, *(beat.counters for beat in beats)]
    sinks: dict[str, list[SinkBeat]] = {}
    for sink in chain(kept.sinks, *(beat.sinks for beat in beats)):
        sinks.setdefault(sink.name, []).append(sink)
    kept.counters = summed_counters(counters)
    kept.sinks = tuple(summed_sinks(every) for every in sinks.values())
    kept.save(update_fields=["counters", "sinks"])
