"""The first page: what runs, how far behind it is, and what is wrong now."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from recorder.models import RunState
from workers.pages.wrong import findings
from workers.queries import age_seconds, beats, controller_age, is_live, oldest_age, total
from workers.queries import dashboard as figures

GLYPHS = {"running": "completed", "paused": "paused", "parked": "failed", "stalled": "running"}
HEAT = (25, 60, 200)
FULL_QUEUE = 120
MOST_CELLS = 64


def dashboard(request: HttpRequest) -> HttpResponse:
    """The dashboard of the chosen cluster and worker."""
    rows = beats(request.GET.get("cluster", ""), request.GET.get("worker", ""))
    document = figures(rows)
    hues = {worker["name"]: n % 4 + 1 for n, worker in enumerate(document["workers"])}
    live = [beat for beat in rows if is_live(beat)]
    context = {
        "document": document,
        "totals": _totals(document["workers"]),
        "tiles": [_tile(row, hues) for row in document["partitions"]],
        "workers": [_worker(beat, hues) for beat in _shown(rows)],
        "sinks": [{**sink, "worker": b.run.worker} for b in live for sink in b.sinks],
        "findings": findings(rows, controller_age()),
        "last_beat": max((beat.beat_at for beat in rows), default=None),
        "live_count": len(live),
        "age": oldest_age(live),
        "waiting": total(beat.pool.get("waiting") for beat in live),
    }
    return render(request, "dashboard.html", context)


def _shown(rows: list[RunState]) -> list[RunState]:
    """The latest run of each name."""
    return list({(beat.run.cluster, beat.run.worker): beat for beat in rows}.values())


def _totals(workers: list[dict[str, Any]]) -> dict[str, int | None]:
    keys = ("consumed", "tasks_completed", "tasks_failed", "tasks_retried", "dead_letters")
    totals: dict[str, int | None] = {}
    for key in keys:
        known = [worker[key] for worker in workers if worker[key] is not None]
        totals[key] = sum(known) if known else None
    return totals


def _tile(row: dict[str, Any], hues: dict[str, int]) -> dict[str, Any]:
    state, lag = str(row["state"]), row["lag"]
    heat = sum(1 for edge in HEAT if lag is not None and lag > edge)
    glyph = GLYPHS.get(state, "waiting")
    queue = row["queue"]
    return {
        **row,
        "hue": hues.get(row["owner"], 1),
        "heat": heat,
        "odd": "" if glyph == "completed" else glyph,
        "bar": None if queue is None else min(100, queue * 100 // FULL_QUEUE),
    }


def _worker(beat: RunState, hues: dict[str, int]) -> dict[str, Any]:
    status = {"ready": "completed", "lost": "failed", "paused": "paused"}.get(beat.state, "waiting")
    slots, busy = beat.pool.get("slots"), beat.pool.get("busy")
    is_known = slots is not None and busy is not None
    return {
        "name": beat.run.worker,
        "cluster": beat.run.cluster,
        "hue": hues.get(beat.run.worker, 1),
        "status": status,
        "state": beat.state,
        "is_live": is_live(beat),
        "partitions": len(beat.partitions) if is_live(beat) else 0,
        "cells": [n < busy for n in range(min(slots, MOST_CELLS))] if is_known else [],
        "pool": beat.pool,
        "rss_bytes": beat.rss_bytes,
        "age": age_seconds(beat),
        "version": beat.run.version,
    }
