"""First page: what runs, how far behind it is, and what is wrong now."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from domain.drain import Drain, drain
from domain.unknown import known_total, total
from recorder.models import RunState, RunTrack
from workers.control_plane.finding_marks import with_marks
from workers.control_plane.pages.presentation import OF_RUN, partition_status, place_names
from workers.control_plane.pages.sinks import sink_lines
from workers.control_plane.pages.sparks import sparks
from workers.control_plane.pages.trend import lag_paces
from workers.control_plane.queries import (
    age_seconds,
    is_live,
    latest,
    oldest_age,
    partitions_of,
)
from workers.control_plane.queries import dashboard as figures
from workers.control_plane.situation import Situation, situation

HEAT = (25, 60, 200)
FULL_QUEUE = 120
MOST_CELLS = 64


def dashboard(request: HttpRequest) -> HttpResponse:
    """Return the dashboard of the chosen cluster and worker."""
    cluster, worker = request.GET.get("cluster", ""), request.GET.get("worker", "")
    seen = situation(cluster, worker)
    rows, live, unowned = seen.rows, seen.live, seen.unowned
    document = figures(rows)
    marked = with_marks(seen.findings)
    own = [track for track in seen.recent if worker in ("", track.run.worker)]
    context = {
        "document": document,
        "totals": _totals(document["workers"]),
        "tiles": _groups([_tile(row) for row in document["partitions"]]),
        "unowned": _groups(unowned),
        "partition_count": len(document["partitions"]) + len(unowned),
        "lag": total(seen.lags.values()),
        "lag_at_least": sum(row["lag"] or 0 for row in document["partitions"]),
        "drains": _drains(live, own, seen),
        "workers": [_worker(beat) for beat in _shown(rows)],
        "sinks": sink_lines(live),
        "findings": seen.findings,
        "marked": [each for each in marked if not each.is_silenced],
        "silenced": [each for each in marked if each.is_silenced],
        "last_beat": max((beat.beat_at for beat in rows), default=None),
        "live_count": len(live),
        "sparks": sparks(own, seen.now),
        "age": oldest_age(live),
        "waiting": total(beat.pool.waiting for beat in live),
        "waiting_for_group": sum(beat.pool.waiting_for_group or 0 for beat in live),
        "waiting_for_key": sum(beat.pool.waiting_for_key or 0 for beat in live),
    }
    return render(request, "dashboard.html", context)


def _drains(
    live: Sequence[RunState], own: Sequence[RunTrack], seen: Situation
) -> list[tuple[str, Drain]]:
    """Return when each cluster is drained, or the chosen worker's part of it: at one pace each, for
    clusters that are mixed drain at none."""
    found = lag_paces(own, seen.now)
    owned = partitions_of(live)
    lags = {
        cluster: total(row.beat.lag for row in owned if row.cluster == cluster)
        for cluster in sorted({beat.run.cluster for beat in live})
    }
    return [(cluster, drain(lag, found.get(cluster))) for cluster, lag in lags.items()]


def _shown(rows: Sequence[RunState]) -> list[RunState]:
    """Return the latest run of each name, by name."""
    return [beat for _, beat in sorted(latest(rows).items())]


def _totals(workers: list[dict[str, Any]]) -> dict[str, int | None]:
    keys = ("consumed", "tasks_completed", "tasks_failed", "tasks_retried", "dead_letters")
    return {key: known_total(worker[key] for worker in workers) for key in keys}


def _groups(rows: Sequence[dict[str, Any]]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Rows, sorted by place, under what tells their cluster and topic apart."""
    names = place_names(rows)
    return [
        (names[place], list(found))
        for place, found in groupby(rows, lambda row: (row["cluster"], row["topic"]))
    ]


def _tile(row: dict[str, Any]) -> dict[str, Any]:
    state, lag = str(row["state"]), row["lag"]
    heat = sum(1 for edge in HEAT if lag is not None and lag > edge)
    status, queue = partition_status(state)[0], row["queue"]
    odd = "" if status == "completed" else status
    look = f"heat-{heat}"
    return {
        **row,
        "look": f"{look} s-{odd}" if odd else look,
        "who": f"{row['topic']} {row['partition']}, {row['owner']}, {state}",
        "odd": odd,
        "bar": None if queue is None else min(100, queue * 100 // FULL_QUEUE),
    }


def _worker(beat: RunState) -> dict[str, Any]:
    status = OF_RUN.get(beat.state, "waiting")
    slots, busy = beat.pool.slots, beat.pool.busy
    return {
        "name": beat.run.worker,
        "cluster": beat.run.cluster,
        "status": status,
        "state": beat.state,
        "is_live": is_live(beat),
        "partitions": len(beat.partitions) if is_live(beat) else 0,
        "cells": []
        if slots is None or busy is None
        else [n < busy for n in range(min(slots, MOST_CELLS))],
        "pool": beat.pool,
        "rss_bytes": beat.rss_bytes,
        "age": age_seconds(beat),
        "version": beat.run.version,
    }
