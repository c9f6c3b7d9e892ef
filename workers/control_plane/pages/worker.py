"""``/workers/<cluster>/<worker>``: one worker now, its versions, its runs before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.db.models import Q
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from domain.changes import Change
from domain.events import KINDS, PartitionEvent, RunEvent, Shed, SinkEvent
from domain.unknown import total
from recorder.models import Event, Run, RunState
from recorder.queries import Filters, Window, page_of, window
from recorder.run_changes import RunChanges
from recorder.spans import note_of
from workers.control_plane.cluster_requests import standing
from workers.control_plane.deployments import comparison
from workers.control_plane.pages.partitions import owned_rows
from workers.control_plane.pages.presentation import OF_RUN, run_status
from workers.control_plane.pages.sinks import sink_lines
from workers.control_plane.pages.workers import RESTING, bounds_of
from workers.control_plane.paused_by import workers_paused_by
from workers.control_plane.queries import age_seconds, beats, is_live, latest, read_at

RUNS = 20
EVENTS = 20
FAILURES = 10
MOST_CELLS = 64
COMPARED = timedelta(days=7)
END_SECONDS = 60.0
"""How far from a run's last beat its end may have been told."""
FAILED = ("task_failed", "dead_lettered", "delivery_failed")
NOTABLE = tuple(
    kind.name
    for kind in KINDS.values()
    if issubclass(kind.event, RunEvent | PartitionEvent | SinkEvent) and kind.shed is not Shed.FIRST
)
Row = dict[str, Any]


def worker(request: HttpRequest, cluster: str, worker: str) -> HttpResponse:
    """Return the page of a worker's name; 404 where none of that name ever ran."""
    beat = latest(beats(cluster, worker)).get((cluster, worker))
    context: Row = {"cluster_name": cluster, "worker_name": worker, "beat": beat}
    if beat is None:
        return render(request, "worker.html", context, status=404)
    run = Run.objects.get(id=beat.run_id)
    before = _runs_before(run)
    live = [beat] if is_live(beat) else []
    partitions = owned_rows(live)
    seconds = None
    if beat.state_since is not None:
        seconds = max(0.0, (read_at(beat) - beat.state_since).total_seconds())
    now = read_at(beat)
    latest_rows = window(Filters(cluster=cluster, worker=worker))
    context |= {
        "run": run,
        "is_live": is_live(beat),
        "status": run_status(beat),
        "by": workers_paused_by([(cluster, worker)]).get((cluster, worker))
        if beat.state in RESTING
        else None,
        "state_seconds": seconds,
        "age": age_seconds(beat),
        "row": {"run": run, **bounds_of(run, run.config or {})},
        "cells": _cells(beat),
        "running": _running(beat),
        "partitions": partitions,
        "lag": total(row["lag"] for row in partitions),
        "lag_at_least": sum(row["lag"] or 0 for row in partitions),
        "sinks": sink_lines(live),
        "changes": _changes(run),
        "comparison": comparison(cluster, "handler", now - COMPARED, now, worker),
        "runs": _past(before),
        "failures": _events(latest_rows, FAILED, FAILURES),
        "notable": _events(latest_rows, NOTABLE, EVENTS),
        "standing": list(standing(cluster)),
    }
    return render(request, "worker.html", context)


def _cells(beat: RunState) -> list[bool]:
    """Slots, busy ones first; empty where they are unknown."""
    slots, busy = beat.pool.slots, beat.pool.busy
    if slots is None or busy is None:
        return []
    return [n < busy for n in range(min(slots, MOST_CELLS))]


def _running(beat: RunState) -> list[Row]:
    """Tasks that run, the oldest first, with how long they have."""
    now = read_at(beat).timestamp()
    tasks = sorted(beat.pool.running or (), key=lambda task: task.started_at or now)
    return [
        {
            "task": task,
            "seconds": None if task.started_at is None else max(0.0, now - task.started_at),
        }
        for task in tasks
    ]


def _changes(run: Run) -> Row:
    """What the run was started with otherwise; ``rows`` None: nothing to compare it with."""
    changes = RunChanges.stored(run)
    before = Run.objects.filter(id=changes.run_before).first() if changes.run_before else None
    rows: list[Change] | None = None
    if changes.versions is not None and changes.config is not None:
        versions = (
            Change(f"version of {each.key}", each.old, each.new) for each in changes.versions
        )
        rows = [*versions, *changes.config]
    return {"before": before, "run_before": changes.run_before, "rows": rows}


def _runs_before(run: Run) -> Sequence[Run]:
    earlier = Run.objects.filter(
        cluster=run.cluster, worker=run.worker, started_at__lt=run.started_at, beat__isnull=False
    )
    shown = earlier.select_related("beat").defer(
        "config", "environment", "beat__metrics", "beat__partitions", "beat__sinks", "beat__pool"
    )
    return list(shown.order_by("-started_at")[:RUNS])


def _past(runs: Sequence[Run]) -> list[Row]:
    """Runs that ended, with why; a reason that is not in the history any more is None."""
    ends = _ends(runs)
    return [
        {
            "run": run,
            "beat": run.beat,
            "status": OF_RUN.get(run.beat.state, "waiting"),
            "ended": (ended := run.beat.ended_at or run.beat.beat_at),
            "seconds": (ended - run.started_at).total_seconds(),
            "reason": ends.get(run.id, "fell silent" if run.beat.state == "lost" else None),
        }
        for run in runs
    ]


def _ends(runs: Sequence[Run]) -> dict[UUID, str]:
    """Reasons of the ends that these runs told last of all."""
    if not runs:
        return {}
    last = Q()
    for run in runs:
        last |= Q(run=run.id, seq=run.recorded_seq)
    moments = [run.beat.beat_at for run in runs]
    told = Event.objects.filter(
        last,
        kind="worker_stopped",
        ts__gte=min(moments) - timedelta(seconds=END_SECONDS),
        ts__lte=max(moments) + timedelta(seconds=END_SECONDS),
    )
    return {event.run: _reason(event.data or {}) for event in told.only("run", "data")}


def _reason(told: Row) -> str:
    reason = str(told.get("reason") or "")
    return reason if told.get("clean") else f"{reason}, not clean"


def _events(within: Window, kinds: tuple[str, ...], most: int) -> list[Row]:
    of_kinds = replace(within, filters=replace(within.filters, kinds=kinds))
    found = page_of(of_kinds).rows[:most]
    return [{"event": event, "note": note_of(event)} for event in found]
