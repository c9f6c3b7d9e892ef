"""``/workers``: each worker's latest run, and the runs before it, by pages of the URL."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone

from domain.paging import Page, page
from recorder.databases import is_history_away, unless_away
from recorder.models import Run, RunState
from recorder.rollups.reading import Dimension, Scope, Total, totals
from workers.control_plane.cluster_requests import standing
from workers.control_plane.pages.presentation import run_status
from workers.control_plane.past_runs import ENDED_STATES
from workers.control_plane.paused_by import workers_paused_by
from workers.control_plane.queries import age_seconds, beats, is_live, latest, oldest_age

NOT_SHOWN = (
    *("config", "environment", "beat__metrics", "beat__partitions", "beat__sinks", "beat__pool"),
    *("beat__latency", "beat__recorder"),
)
"""Of earlier runs: read by no line of theirs."""
RESTING = ("paused", "draining")
RECENT = timedelta(hours=1)
LIMITS = ("cpu_seconds", "memory_bytes", "open_files", "file_bytes", "processes", "cpu_quota")


def workers(request: HttpRequest) -> HttpResponse:
    """Return the latest run of each name with its figures; below, the runs that ended."""
    found = beats(request.GET.get("cluster", ""), request.GET.get("worker", ""))
    shown = list(latest(found).values())
    ids = {beat.run_id for beat in shown}
    configs = dict(Run.objects.filter(id__in=ids).values_list("id", "config"))
    usual = _usual_hashes(shown)
    paused = [(beat.run.cluster, beat.run.worker) for beat in shown if beat.state in RESTING]
    paused_by = workers_paused_by(paused)
    earlier = _runs_before(found, request.GET.get("before", ""))
    context = {
        "rows": [
            {
                **_row(beat, configs.get(beat.run_id) or {}, usual),
                "by": paused_by.get((beat.run.cluster, beat.run.worker)),
            }
            for beat in sorted(shown, key=lambda b: (not is_live(b), b.run.cluster, b.run.worker))
        ],
        "earlier": [_earlier(run) for run in earlier.rows],
        "earlier_count": _earlier_count(found),
        "next": earlier.older or None,
        "is_first": not request.GET.get("before"),
        "live_count": sum(is_live(beat) for beat in shown),
        "to_cluster": _only_cluster(shown),
        "standing": list(standing(request.GET.get("cluster", ""))),
        "durations": unless_away(
            _durations, [], request.GET.get("cluster", ""), request.GET.get("worker", "")
        ),
        "is_history_away": is_history_away(),
        "age": oldest_age(shown),
    }
    return render(request, "workers.html", context)


def _durations(cluster: str, worker: str) -> list[tuple[str, list[Total]]]:
    """Return the tasks of the last hour by host and by worker, the slowest first."""
    now = timezone.now()
    found = []
    for name, by in (("Host", Dimension.HOST), ("Worker", Dimension.WORKER)):
        rows = totals(Scope(cluster=cluster, worker=worker), now - RECENT, now, by)
        rows.sort(key=lambda row: -(row.p95_ms or 0.0))
        found.append((name, rows))
    return [(name, rows) for name, rows in found if rows]


def _only_cluster(shown: list[RunState]) -> str:
    """Return the cluster that these are of; empty where they are of several, or none is shown."""
    names = {beat.run.cluster for beat in shown}
    return names.pop() if len(names) == 1 else ""


def _runs_before(found: list[RunState], key: str) -> Page[Run]:
    """Return ended runs of the names found that are not among them, beyond the key's run; the
    newest for a key that is none."""
    ended = Run.objects.filter(
        beat__state__in=ENDED_STATES,
        cluster__in={beat.run.cluster for beat in found},
        worker__in={beat.run.worker for beat in found},
    )
    rest = ended.exclude(id__in=[beat.run_id for beat in found])
    rows = rest.select_related("beat").defer(*NOT_SHOWN)
    try:
        return page(rows, "started_at", older=key)
    except ValueError:
        return page(rows, "started_at")


def _earlier_count(found: list[RunState]) -> int:
    """Return how many ended runs of these names are not among them."""
    of_names = sum(beat.past.count for beat in latest(found).values())  # type: ignore[attr-defined]
    return of_names - sum(not is_live(beat) for beat in found)


def _usual_hashes(shown: list[RunState]) -> dict[str, str]:
    """Return the configuration most live workers of each cluster run with; of equals the
    youngest."""
    votes: dict[str, Counter[str]] = {}
    for beat in reversed(shown):
        if is_live(beat):
            votes.setdefault(beat.run.cluster, Counter())[beat.run.config_hash] += 1
    return {cluster: count.most_common(1)[0][0] for cluster, count in votes.items()}


def bounds_of(run: Run, config: dict[str, Any]) -> dict[str, Any]:
    """Return what bounds a task of the run: ``limits`` are name, value and whether it holds."""
    executor = config.get("executor") or {}
    limits = executor.get("limits") or {}
    return {
        "limits": [
            (name, limits[name], name != "cpu_quota" or _bounds_cpu(run))
            for name in LIMITS
            if limits.get(name) is not None
        ],
        "timeout_seconds": executor.get("task_timeout_seconds"),
    }


def _row(beat: RunState, config: dict[str, Any], usual: dict[str, str]) -> dict[str, Any]:
    run = beat.run
    known = usual.get(run.cluster)
    return {
        "run": run,
        "beat": beat,
        "status": run_status(beat),
        "is_live": is_live(beat),
        "age": age_seconds(beat),
        "partitions": len(beat.partitions) if is_live(beat) else None,
        "drifts": is_live(beat) and known is not None and run.config_hash != known,
        **bounds_of(run, config),
    }


def _bounds_cpu(run: Run) -> bool:
    found, _, controllers = run.cgroups.partition(": ")
    return found == "tasks" and "cpu" in controllers.split(", ")


def _earlier(run: Run) -> dict[str, Any]:
    beat = run.beat
    ended = beat.ended_at or beat.beat_at
    return {
        "run": run,
        "beat": beat,
        "status": run_status(beat),
        "ended": ended,
        "seconds": (ended - run.started_at).total_seconds(),
    }
