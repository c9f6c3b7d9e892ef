"""``/workers/<cluster>/<worker>``: one worker now, its versions, its runs before."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from itertools import islice
from typing import Any
from uuid import UUID

from django.db.models import Q
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from domain.changes import Change
from domain.events import KINDS, PartitionEvent, RunEvent, Shed, SinkEvent
from domain.unknown import total
from recorder.databases import is_history_away, unless_away
from recorder.failures.reading import group_name, groups_of
from recorder.models import Event, Run, RunState
from recorder.queries import Filters, Window, window
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
NOTABLE_LINES = 20
FAILURES = 10
MOST_LOOKED_AT = 2000
"""Notable events that are looked at for these lines."""
TOGETHER = timedelta(seconds=10)
MOST_CELLS = 64
COMPARED = RECENT = timedelta(days=7)
END_SECONDS = 60.0
"""How far from a run's last beat its end may have been told."""
FAILED = ("task_failed", "dead_lettered", "delivery_failed")
NOTABLE = tuple(
    kind.name
    for kind in KINDS.values()
    if issubclass(kind.event, RunEvent | PartitionEvent | SinkEvent) and kind.shed is not Shed.FIRST
)
OF_PARTITIONS = frozenset(
    kind.name for kind in KINDS.values() if issubclass(kind.event, PartitionEvent)
)
Row = dict[str, Any]


def worker(request: HttpRequest, cluster: str, worker: str) -> HttpResponse:
    """Return the page of a worker's name; 404 where none of that name ever ran."""
    beat = latest(beats(cluster, worker)).get((cluster, worker))
    context: Row = {"cluster_name": cluster, "worker_name": worker, "beat": beat}
    if beat is None:
        return render(request, "worker.html", context, status=404)
    started = Run.objects.in_bulk([beat.run_id, *filter(None, [beat.run.run_before])])
    run = started[beat.run_id]
    before = _runs_before(run)
    live = [beat] if is_live(beat) else []
    partitions = owned_rows(live)
    seconds = None
    if beat.state_since is not None:
        seconds = max(0.0, (read_at(beat) - beat.state_since).total_seconds())
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
        "changes": _changes(run, started),
        "standing": list(standing(cluster)),
        **unless_away(_of_history, {"runs": _past(before, {})}, beat, before),
        "is_history_away": is_history_away(),
    }
    return render(request, "worker.html", context)


def _of_history(beat: RunState, before: Sequence[Run]) -> Row:
    """Return what the history has of a worker."""
    cluster, worker, now = beat.run.cluster, beat.run.worker, read_at(beat)
    recent = window(Filters(since=now - RECENT))
    own_runs = [beat.run_id, *(each.id for each in before)]
    return {
        "comparison": comparison(cluster, "handler", now - COMPARED, now, worker),
        "runs": _past(before, _ends(before)),
        "failures": _failures(_told(recent, FAILED, own_runs)),
        "notable": _notable(_told(recent, NOTABLE, own_runs)),
    }


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


def _changes(run: Run, known: Mapping[UUID, Run]) -> Row:
    """What the run was started with otherwise; ``rows`` None: nothing to compare it with."""
    changes = RunChanges.stored(run)
    before = known.get(changes.run_before) if changes.run_before else None
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


def _past(runs: Sequence[Run], ends: Mapping[UUID, str]) -> list[Row]:
    """Runs that ended, with why; a reason that is not in the history any more is None."""
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


def _told(within: Window, kinds: tuple[str, ...], runs: Sequence[UUID]) -> Iterator[Event]:
    """Events of these kinds that the runs told in a window, newest first."""
    of_kinds = replace(within, filters=replace(within.filters, kinds=kinds))
    return of_kinds.told(Q(run__in=runs))


def _failures(events: Iterable[Event]) -> list[Row]:
    """The last failures, with the group that each was counted in, where that is known."""
    shown = list(islice(events, FAILURES))
    groups = {group.pk: group for group in groups_of(shown, FAILURES)}
    return [
        {"event": event, "note": note_of(event), "group": groups.get(group_name(event))}
        for event in shown
    ]


def _notable(events: Iterable[Event]) -> list[Row]:
    """The last events; those of many partitions at once, such as an assignment, are one line.

    ``more`` are the other partitions of a line.
    """
    found: list[Row] = []
    for event in islice(events, MOST_LOOKED_AT):
        last = found[-1] if found else None
        if last is not None and _is_same(last["event"], event):
            last["more"].append(event.partition)
        elif len(found) == NOTABLE_LINES:
            break
        else:
            found.append({"event": event, "note": note_of(event), "more": []})
    return found


def _is_same(newer: Event, older: Event) -> bool:
    """Whether both tell the same of two partitions of a run, one right after the other."""
    return (
        older.kind in OF_PARTITIONS
        and (newer.kind, newer.run, newer.topic) == (older.kind, older.run, older.topic)
        and newer.ts - older.ts <= TOGETHER
    )
