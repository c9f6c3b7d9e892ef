"""Last reports of the workers on themselves: sums over runs, partitions of the live ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db.models import BooleanField, DateTimeField, ExpressionWrapper, Q, QuerySet
from django.db.models.functions import Now

from domain.beat import PartitionBeat
from domain.fate import Fate
from domain.unknown import known_total, total
from domain.worker_hues import HUES
from recorder.models import Run, RunState, RunTrack
from workers.control_plane.past_runs import (
    TOTALS,
    PastRuns,
    Scope,
    mark_columns,
    version_of,
)
from workers.runtime.metric_history import COUNTERS

CONTROL_CLUSTER = "_control"
LIVE_STATES = ("starting", "ready", "paused", "draining")
LATE_SECONDS = 6.0
PARTITION_FIGURES = tuple(each.name for each in fields(PartitionBeat))
MOST_LOOKS = 3


def beats(cluster: str = "", worker: str = "", more: Q | None = None) -> list[RunState]:
    """Return the beats of the live runs and of each name's latest, oldest run first; ``more`` adds
    others.

    Of a cluster and worker (empty: all). Each carries ``now``, the database's clock, so that ages
    need no clock of ours, and ``past``, the ``PastRuns`` of its name.
    """
    runs = _runs(cluster, worker)
    ids = _youngest(runs)
    found = _read(runs, ids, more)
    if len(ids) > len({beat.run_id for beat in found}.intersection(ids)):  # one has not beaten yet
        found = _read(runs, _youngest(runs.filter(beat__isnull=False)), more)
    return found


def _youngest(runs: QuerySet[Run]) -> list[UUID]:
    # The order of the index run_by_worker, backwards: nothing is sorted, however many there are.
    rows = runs.order_by("-cluster", "-worker", "-started_at").distinct("cluster", "worker")
    return list(rows.values_list("id", flat=True))


def _read(runs: QuerySet[Run], ids: list[UUID], more: Q | None) -> list[RunState]:
    wanted = Q(state__in=LIVE_STATES) | Q(run_id__in=ids)
    wanted = (wanted | more if more else wanted) & Q(run__in=runs)
    shown = RunState.objects.filter(wanted).select_related("run").defer("metrics", "run__config")
    now = ExpressionWrapper(Now(), output_field=DateTimeField())
    shown = shown.annotate(now=now, **mark_columns()).order_by("run__started_at")
    for _ in range(MOST_LOOKS):
        found: list[RunState] = list(shown.all())
        mark, past = TOTALS.at(version_of(found[0])) if found else ((0, None), {})
        if not found or mark == version_of(found[0]):
            break
    for beat in found:
        beat.past = past.get((beat.run.cluster, beat.run.worker), PastRuns())  # type: ignore[attr-defined]
    return found


def _runs(cluster: str, worker: str) -> QuerySet[Run]:
    runs = Run.objects.exclude(cluster=CONTROL_CLUSTER)
    if cluster:
        runs = runs.filter(cluster=cluster)
    return runs.filter(worker=worker) if worker else runs


def is_live(beat: RunState) -> bool:
    """Tell whether the run says it works; a late one still does until it is judged lost."""
    return beat.state in LIVE_STATES


def least_busy(cluster: str, worker: str = "") -> str | None:
    """Return the live worker with the fewest tasks that run, of that cluster and, unless empty, of
    that name; None: none lives. One whose tasks are unknown comes last."""
    live = [beat for beat in latest(beats(cluster, worker)).values() if is_live(beat)]
    busy = {beat.run.worker: beat.pool.busy for beat in live}
    return min(busy, key=lambda name: (busy[name] is None, busy[name] or 0), default=None)


def dashboard(rows: Iterable[RunState]) -> dict[str, Any]:
    """Return the dashboard document of ``/api/v1/dashboard``."""
    runs = list(rows)
    names = latest(runs)
    live = [run for run in names.values() if is_live(run)]
    partitions = partitions_of(live)
    return {
        "workers": [_worker(name, runs, last) for name, last in sorted(names.items())],
        "partitions": [row.document() for row in partitions],
        "pool": {
            "slots": total(run.pool.slots for run in live),
            "busy": total(run.pool.busy for run in live),
        },
        "lag": total(row.beat.lag for row in partitions),
        "latency": latency(runs),
    }


def latency(runs: Iterable[RunState]) -> dict[str, list[float]] | None:
    """Messages by latency over these runs: upper bounds in seconds, and counts; None: unknown."""
    known = [beat.latency for beat in runs if beat.latency.counts]
    if not known:
        return None
    bounds = known[-1].buckets
    same = [each.counts for each in known if each.buckets == bounds]
    return {"bounds": list(bounds), "counts": [sum(column) for column in zip(*same, strict=True)]}


def cluster_lags(
    rows: Iterable[RunState], unowned: Iterable[Mapping[str, Any]], controller: RunState | None
) -> dict[str, int | None]:
    """Return the lag by cluster: what its workers tell of all its partitions, or what the
    controller measured where none lives. None: unknown, for one where a partition has no owner
    too."""
    names = list(latest(rows).values())
    partitions = partitions_of(filter(is_live, names))
    living = {beat.run.cluster for beat in names if is_live(beat)}
    open_ = {row["cluster"] for row in unowned}
    measured = controller.counters.lags if controller else {}
    found: dict[str, int | None] = {}
    for cluster in {beat.run.cluster for beat in names}:
        told = total(row.beat.lag for row in partitions if row.cluster == cluster)
        found[cluster] = measured.get(cluster) if cluster not in living else told
        if cluster in living & open_:
            found[cluster] = None
    return found


def controller_beat() -> RunState | None:
    """Return the latest beat of a controller that has not stopped; ``counters.lags`` is each
    cluster's lag as the leader knows it."""
    last = last_controller_beat()
    return last if last is not None and is_live(last) else None


def last_controller_beat() -> RunState | None:
    """Return the latest beat of a controller that has not stopped, else of any."""
    now = ExpressionWrapper(Now(), output_field=DateTimeField())
    rows = RunState.objects.filter(run__cluster=CONTROL_CLUSTER).annotate(
        now=now, is_live=ExpressionWrapper(Q(state__in=LIVE_STATES), BooleanField())
    )
    return rows.defer("metrics").order_by("-is_live", "-beat_at").first()


def tracks(seconds: float, cluster: str = "") -> list[RunTrack]:
    """Return the ten minutes kept by the runs that wrote their figures in the last ``seconds``."""
    rows = RunTrack.objects.filter(
        written_at__gte=Now() - timedelta(seconds=seconds), run__in=_runs(cluster, "")
    )
    of_run = ("run__id", "run__cluster", "run__worker", "run__beat__state")
    shown = ("written_at", "bounds", "samples", *of_run)
    return list(rows.select_related("run__beat").only(*shown))


def live_metrics(cluster: str = "", worker: str = "") -> list[RunState]:
    """Return the beats of what lives, controllers too, with nothing but their metrics, by name."""
    rows = RunState.objects.filter(state__in=LIVE_STATES).select_related("run")
    if cluster:
        rows = rows.filter(run__cluster=cluster)
    if worker:
        rows = rows.filter(run__worker=worker)
    now = ExpressionWrapper(Now(), output_field=DateTimeField())
    fields = ("state", "beat_at", "metrics", "run__cluster", "run__worker")
    return list(rows.only(*fields).annotate(now=now).order_by("run__cluster", "run__worker"))


def latest(runs: Iterable[RunState]) -> dict[Scope, RunState]:
    """Return the youngest run of each name; runs come oldest first."""
    return {(beat.run.cluster, beat.run.worker): beat for beat in runs}


def _worker(name: Scope, runs: Iterable[RunState], last: RunState) -> dict[str, Any]:
    live = [b for b in runs if is_live(b) and (b.run.cluster, b.run.worker) == name]
    past: PastRuns = last.past  # type: ignore[attr-defined]
    counters = [past.counters, *(beat.counters for beat in live)]
    pool = last.pool
    return {
        "cluster": name[0],
        "name": name[1],
        "state": last.state,
        "partition_count": len(last.partitions) if is_live(last) else 0,
        "pool": {"slots": pool.slots, "busy": pool.busy, "waiting": pool.waiting}
        if is_live(last)
        else None,
        **{key: known_total(getattr(each, key) for each in counters) for key in COUNTERS},
        "fates": {
            fate.value: known_total(each.fates.get(fate) for each in counters) for fate in Fate
        },
    }


@dataclass(frozen=True, slots=True)
class OwnedPartition:
    """Partition of a cluster, as its live ``owner`` last told it."""

    cluster: str
    owner: str
    beat: PartitionBeat

    @property
    def place(self) -> tuple[str, str, int]:
        """Its cluster, topic and number."""
        return self.cluster, *self.beat.place

    def document(self) -> dict[str, Any]:
        """Return it as the API and the live socket tell it; an unknown figure is None."""
        figures = {name: getattr(self.beat, name) for name in PARTITION_FIGURES}
        blocker = None if self.beat.blocker is None else asdict(self.beat.blocker)
        return {"cluster": self.cluster, "owner": self.owner, **figures, "blocker": blocker}


def partitions_of(live: Iterable[RunState]) -> list[OwnedPartition]:
    """Each partition once, of its youngest epoch's owner, by cluster, topic and number."""
    found: dict[tuple[str, str, int], tuple[datetime, OwnedPartition]] = {}
    for beat in live:
        for row in beat.partitions:
            owned = OwnedPartition(beat.run.cluster, beat.run.worker, row)
            known = found.get(owned.place)
            if known is None or beat.beat_at >= known[0]:
                found[owned.place] = beat.beat_at, owned
    return [found[place][1] for place in sorted(found)]


def holder_of(live: Iterable[RunState], cluster: str, task_id: str) -> RunState | None:
    """Return the run that runs a task, else the owner of the source partition that its id names;
    None: nobody has it. A deferred task runs in a partition of the retry topic."""
    partition = int(task_id.partition(":")[0])
    owner: RunState | None = None
    for beat in live:
        if beat.run.cluster != cluster:
            continue
        if any(task.task_id == task_id for task in beat.pool.running or ()):
            return beat
        owns = any(row.partition == partition and row.held is None for row in beat.partitions)
        if owns and (owner is None or beat.beat_at >= owner.beat_at):
            owner = beat
    return owner


def read_at(beat: RunState) -> datetime:
    """Return when the beat was read, by the database's clock."""
    now: datetime = beat.now  # type: ignore[attr-defined]
    return now


def age_seconds(beat: RunState) -> float:
    """Seconds since the run's last beat, by the database's clock."""
    return max(0.0, (read_at(beat) - beat.beat_at).total_seconds())


def oldest_age(rows: Iterable[RunState]) -> float | None:
    """Seconds since the oldest of the latest beats of what lives; None: nothing lives."""
    return max((age_seconds(beat) for beat in rows if is_live(beat)), default=None)


def known_names() -> list[Scope]:
    """Every cluster and worker that ever ran, without the controller's own."""
    runs = Run.objects.exclude(cluster=CONTROL_CLUSTER)
    return list(runs.order_by("cluster", "worker").values_list("cluster", "worker").distinct())


def names_in_view(known: list[Scope]) -> list[Scope]:
    """Return the names whose colours have to differ: all, or the live ones of too many."""
    if len(known) <= HUES:
        return known
    live = RunState.objects.filter(state__in=LIVE_STATES).exclude(run__cluster=CONTROL_CLUSTER)
    return list(live.values_list("run__cluster", "run__worker").distinct())
