"""``/workers``: each worker's latest run, and the runs before it."""

from __future__ import annotations

from collections import Counter
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from recorder.models import Run, RunState
from workers.pages.shown import hues, run_status
from workers.queries import age_seconds, beats, is_live, latest, oldest_age

EARLIER_RUNS = 50
LIMITS = ("cpu_seconds", "memory_bytes", "open_files", "file_bytes", "processes")


def workers(request: HttpRequest) -> HttpResponse:
    """The latest run of each name with its figures; below, the runs that ended."""
    found = beats(request.GET.get("cluster", ""), request.GET.get("worker", ""))
    shown = list(latest(found).values())
    ids = {beat.run_id for beat in shown}
    configs = dict(Run.objects.filter(id__in=ids).values_list("id", "config"))
    usual = _usual_hashes(shown)
    colours = hues(beat.run.worker for beat in found)
    earlier = [beat for beat in reversed(found) if beat.run_id not in ids]
    context = {
        "rows": [
            _row(beat, configs.get(beat.run_id) or {}, usual, colours[beat.run.worker])
            for beat in sorted(shown, key=lambda b: (not is_live(b), b.run.cluster, b.run.worker))
        ],
        "earlier": [_earlier(beat, colours[beat.run.worker]) for beat in earlier[:EARLIER_RUNS]],
        "earlier_count": len(earlier),
        "live_count": sum(is_live(beat) for beat in shown),
        "age": oldest_age(shown),
    }
    return render(request, "workers.html", context)


def _usual_hashes(shown: list[RunState]) -> dict[str, str]:
    """The configuration most live workers of each cluster run with; of equals the youngest."""
    votes: dict[str, Counter[str]] = {}
    for beat in reversed(shown):
        if is_live(beat):
            votes.setdefault(beat.run.cluster, Counter())[beat.run.config_hash] += 1
    return {cluster: count.most_common(1)[0][0] for cluster, count in votes.items()}


def _row(beat: RunState, config: dict[str, Any], usual: dict[str, str], hue: int) -> dict[str, Any]:
    run, executor = beat.run, config.get("executor") or {}
    limits = executor.get("limits") or {}
    known = usual.get(run.cluster)
    return {
        "run": run,
        "beat": beat,
        "hue": hue,
        "status": run_status(beat),
        "is_live": is_live(beat),
        "age": age_seconds(beat),
        "partitions": len(beat.partitions) if is_live(beat) else None,
        "drifts": is_live(beat) and known is not None and run.config_hash != known,
        "limits": [(name, limits[name]) for name in LIMITS if limits.get(name) is not None],
        "timeout_seconds": executor.get("task_timeout_seconds"),
    }


def _earlier(beat: RunState, hue: int) -> dict[str, Any]:
    ended = beat.ended_at or beat.beat_at
    return {
        "run": beat.run,
        "beat": beat,
        "hue": hue,
        "status": run_status(beat),
        "ended": ended,
        "seconds": (ended - beat.run.started_at).total_seconds(),
    }
