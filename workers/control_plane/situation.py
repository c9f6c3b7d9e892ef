"""Situation: everything that the dashboard and the findings are made of, read at one time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Q
from django.utils import timezone

from domain.lag_cause import LagFigures
from domain.parking import ParkingCause
from domain.unknown import total
from recorder.databases import is_history_away, unless_away
from recorder.failures.news import News, news
from recorder.models import RunState, RunTrack
from workers.control import Subject
from workers.control_plane.cluster_requests import standing
from workers.control_plane.findings import Finding, Known, PausedBys, Start, findings, starts
from workers.control_plane.pages.sparks import BEHIND_SECONDS, POINTS
from workers.control_plane.pages.trend import Trend, trend
from workers.control_plane.paused_by import (
    partitions_paused_by,
    sinks_paused_by,
    workers_paused_by,
)
from workers.control_plane.queries import (
    CONTROL_CLUSTER,
    LIVE_STATES,
    age_seconds,
    beats,
    cluster_lags,
    is_live,
    last_controller_beat,
    partitions_of,
    read_at,
    tracks,
)
from workers.control_plane.rates import Failing, failing, speeds
from workers.control_plane.task_waits import BROKEN
from workers.control_plane.unowned_partitions import unowned_partitions
from workers.models import StandingPause
from workers.runtime.metric_history import EVERY_SECONDS

TRACK_SECONDS = POINTS * EVERY_SECONDS + BEHIND_SECONDS
BEFORE = timedelta(hours=1)
RESTING = ("paused", "draining")


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What the runs of a cluster and worker (empty: of all) told last. ``trend`` and ``recent`` are
    those of whole clusters, also where one worker is chosen."""

    rows: Sequence[RunState]
    now: datetime
    live: Sequence[RunState]
    unowned: Sequence[dict[str, Any]]
    lags: Mapping[str, int | None]
    recent: Sequence[RunTrack]
    trend: Trend
    findings: Sequence[Finding]


def _of_history(
    rows: Sequence[RunState], now: datetime, cluster: str
) -> tuple[list[dict[str, Any]], dict[Start, datetime], dict[str, Failing], Sequence[News]]:
    return unowned_partitions(rows), starts(rows), failing(now, cluster), news(now, cluster)


def situation(cluster: str = "", worker: str = "") -> Situation:
    """Read it. Raises DatabaseError."""
    rows = beats(cluster, worker)
    now = read_at(rows[0]) if rows else timezone.now()
    live = [beat for beat in rows if is_live(beat)]
    answer = last_controller_beat()
    controller = answer if answer is not None and is_live(answer) else None
    nothing: Any = ([], {}, {}, [])
    unowned, begun, broken, told = unless_away(_of_history, nothing, rows, now, cluster)
    lags = cluster_lags(rows, unowned, controller)
    recent = tracks(TRACK_SECONDS, cluster)
    moves, pauses = trend(recent, now), list(standing(cluster))
    growing = [name for name, slope in moves.lag.items() if slope.is_steady]
    everyone = beats(cluster) if worker and growing else rows
    known = Known(
        starts=begun,
        trend=moves,
        # The trend is that of whole clusters: the lag of one worker does not go with it.
        lags={} if worker and live else lags,
        pauses=pauses,
        paused_by=paused_bys(live),
        failing=broken,
        news=told,
        now=now,
        figures={name: lag_figures(name, everyone, pauses, now) for name in growing},
        is_history_away=is_history_away(),
    )
    age = None if answer is None else age_seconds(answer)
    return Situation(
        rows=rows,
        now=now,
        live=live,
        unowned=unowned,
        lags=lags,
        recent=recent,
        trend=moves,
        findings=findings(rows, age, controller is not None, known),
    )


def paused_bys(live: Iterable[RunState]) -> PausedBys:
    """Return who paused what is paused on these workers; asks nothing where nothing is."""
    workers, partitions, sinks = [], [], []
    for beat in live:
        cluster, worker = beat.run.cluster, beat.run.worker
        workers += [(cluster, worker)] if beat.state in RESTING else []
        partitions += [(cluster, *row.place) for row in beat.partitions if row.has_pause]
        sinks += [(cluster, worker, sink.name) for sink in beat.sinks if sink.is_paused]
    return PausedBys(
        workers=workers_paused_by(workers),
        partitions=partitions_paused_by(partitions),
        sinks=sinks_paused_by(sinks),
    )


def lag_figures(
    cluster: str, rows: Iterable[RunState], pauses: Iterable[StandingPause], now: datetime
) -> LagFigures:
    """Return the figures of a cluster by which the causes of its lag are told apart."""
    live = [beat for beat in rows if is_live(beat) and beat.run.cluster == cluster]
    owned = [row.beat for row in partitions_of(live)]
    parked = [row for row in owned if row.parked and ParkingCause.SUSPECT not in row.parked]
    suspects = [row for row in owned if ParkingCause.SUSPECT in row.parked]
    known_lags = [(f"partition {row.partition} of {row.topic}", row.lag) for row in owned]
    hot = [(place, lag) for place, lag in known_lags if lag is not None]
    queues: dict[str, list[int | None]] = defaultdict(list)
    for beat in live:
        for sink in beat.sinks:
            queues[sink.name].append(sink.queue_entries)
    queued = [(name, count) for name, each in queues.items() if (count := total(each)) is not None]
    held = [row.held for row in owned if row.held is not None]
    return LagFigures(
        lag=total(row.lag for row in owned),
        paused=_paused(cluster, live, pauses),
        parked=[f"partition {row.partition} ({', '.join(row.parked)})" for row in parked],
        parked_lag=total(row.lag for row in parked),
        suspects=[f"partition {row.partition}" for row in suspects],
        suspect_lag=total(row.lag for row in suspects),
        sinks_away=sorted(
            {f"sink {sink.name}" for beat in live for sink in beat.sinks if sink.breaker in BROKEN}
        ),
        sink_queue=max(queued, key=lambda each: each[1], default=None),
        workers=len({beat.run.worker for beat in live}),
        workers_before=_workers_at(cluster, now - BEFORE),
        slots=total(beat.pool.slots for beat in live),
        busy=total(beat.pool.busy for beat in live),
        waiting=total(beat.pool.waiting for beat in live),
        waiting_for_key=total(beat.pool.waiting_for_key for beat in live),
        waiting_for_group=total(beat.pool.waiting_for_group for beat in live),
        partitions=len(owned),
        hottest=max(hot, key=lambda each: each[1], default=None),
        deferred=sum(held) if held else None,
        **unless_away(speeds, {}, cluster, now),
    )


def _paused(cluster: str, live: Iterable[RunState], pauses: Iterable[StandingPause]) -> list[str]:
    """Say what is paused in a cluster, on all workers and on each, and by whom."""
    found = [
        f"{'the cluster' if pause.subject == Subject.CLUSTER else f'{pause.subject} {pause.name}'},"
        f" by {pause.actor}"
        for pause in pauses
        if pause.cluster == cluster
    ]
    if not found:
        found = [f"worker {beat.run.worker}" for beat in live if beat.state == "paused"]
    partitions = [row.partition for beat in live for row in beat.partitions if row.has_pause]
    if not found and partitions:
        shown = ", ".join(map(str, sorted(partitions)[:5]))
        found = [f"partition{'s' if len(partitions) > 1 else ''} {shown}"]
    return found


def _workers_at(cluster: str, at: datetime) -> int | None:
    """Return how many workers of a cluster ran at a time; None: its oldest run is younger."""
    runs = RunState.objects.exclude(run__cluster=CONTROL_CLUSTER).filter(run__cluster=cluster)
    then = runs.filter(run__started_at__lte=at)
    if not then.exists():
        return None
    alive = then.filter(Q(state__in=LIVE_STATES) | Q(ended_at__gt=at))
    return alive.values("run__worker").distinct().count()
