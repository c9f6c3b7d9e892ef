"""History by keyset: a page never counts, never skips rows it does not show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db.models import Q, QuerySet, TextField
from django.db.models.functions import Cast

from recorder.models import Event, Run

PAGE_ROWS = 50
Key = tuple[datetime, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """What the reader wants to see; empty means all."""

    kinds: Sequence[str] = ()
    cluster: str = ""
    worker: str = ""
    partition: int | None = None
    task: str = ""
    label: tuple[str, str] | None = None
    since: datetime | None = None
    until: datetime | None = None
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Up to 50 events, newest first, and whether there are more on each side."""

    rows: Sequence[Event]
    has_older: bool
    has_newer: bool


def matching(filters: Filters) -> QuerySet[Event]:
    """The events that a reader asked for, in no order yet."""
    events = Event.objects.defer("stdout", "stderr")
    if filters.kinds:
        events = events.filter(kind__in=filters.kinds)
    if filters.cluster or filters.worker:
        runs = Run.objects.all()
        runs = runs.filter(cluster=filters.cluster) if filters.cluster else runs
        runs = runs.filter(worker=filters.worker) if filters.worker else runs
        events = events.filter(run__in=list(runs.values_list("id", flat=True)))
    if filters.partition is not None:
        events = events.filter(partition=filters.partition)
    if filters.task:
        events = events.filter(task_id=filters.task)
    if filters.label:
        events = events.filter(labels__contains={filters.label[0]: filters.label[1]})
    if filters.since:
        events = events.filter(ts__gte=filters.since)
    if filters.until:
        events = events.filter(ts__lt=filters.until)
    return _with_text(events, filters.text) if filters.text else events


def _with_text(events: QuerySet[Event], text: str) -> QuerySet[Event]:
    written = {f"{name}_text": Cast(name, TextField()) for name in ("args", "labels", "data")}
    found = Q(task_id__icontains=text) | Q(topic__icontains=text) | Q(sink__icontains=text)
    for name in written:
        found |= Q(**{f"{name}__icontains": text})
    return events.alias(**written).filter(found)


def page(filters: Filters, *, older: Key | None = None, newer: Key | None = None) -> Page:
    """The newest page, or the one older or newer than a key."""
    events = matching(filters)
    if newer is not None:
        ahead = Q(ts__gt=newer[0]) | Q(ts=newer[0], id__gt=newer[1])
        found = list(
            events.filter(ts__gte=newer[0]).filter(ahead).order_by("ts", "id")[: PAGE_ROWS + 1]
        )
        return Page(rows=found[:PAGE_ROWS][::-1], has_older=True, has_newer=len(found) > PAGE_ROWS)
    if older is not None:
        behind = Q(ts__lt=older[0]) | Q(ts=older[0], id__lt=older[1])
        events = events.filter(ts__lte=older[0]).filter(behind)
    found = list(events.order_by("-ts", "-id")[: PAGE_ROWS + 1])
    return Page(
        rows=found[:PAGE_ROWS], has_older=len(found) > PAGE_ROWS, has_newer=older is not None
    )


def names_of_runs(runs: set[UUID]) -> Mapping[UUID, tuple[str, str]]:
    """Cluster and worker of each run."""
    rows: Any = Run.objects.filter(id__in=runs).values_list("id", "cluster", "worker")
    return {run: (cluster, worker) for run, cluster, worker in rows}
