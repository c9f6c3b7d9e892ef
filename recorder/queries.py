"""History by keyset: a page never counts, never skips rows it does not show."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db.models import Q, QuerySet, TextField
from django.db.models.functions import Cast

from recorder.models import Event, Run

PAGE_ROWS = 50
SEARCHED_ROWS = 10_000
"""Texts and labels have no index: a page looks at so many events and says how far it came."""
Key = tuple[datetime, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """What the reader wants to see; empty means all."""

    kinds: Sequence[str] = ()
    cluster: str = ""
    worker: str = ""
    topic: str = ""
    partition: int | None = None
    task: str = ""
    label: tuple[str, str] | None = None
    since: datetime | None = None
    until: datetime | None = None
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Up to 50 events, newest first; ``older`` and ``newer`` are where the pages on both sides
    begin, None where there is none. ``searched_to``: a search went this far, and there is more."""

    rows: Sequence[Event]
    older: Key | None = None
    newer: Key | None = None
    searched_to: datetime | None = None


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
    if filters.topic:
        events = events.filter(topic=filters.topic)
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
    is_back = newer is None
    order = ("-ts", "-id") if is_back else ("ts", "id")
    start = older if is_back else newer
    edge = _edge(filters, start, is_back, order)
    events = _beyond(matching(filters), start, is_back)
    if edge is not None:
        events = _beyond(events, edge, not is_back, with_key=True)
    found = list(events.order_by(*order)[: PAGE_ROWS + 1])
    rows = found[:PAGE_ROWS]
    further = _key(rows[-1]) if len(found) > PAGE_ROWS else edge
    back = _key(rows[0]) if rows and start is not None else start
    return Page(
        rows=rows if is_back else rows[::-1],
        older=further if is_back else back,
        newer=back if is_back else further,
        searched_to=edge[0] if edge is not None and further == edge else None,
    )


def _edge(filters: Filters, start: Key | None, is_back: bool, order: tuple[str, str]) -> Key | None:
    """The last event that a search looks at; None: it looks at all that are left."""
    if not (filters.text or filters.label):
        return None
    events = _beyond(matching(replace(filters, text="", label=None)), start, is_back)
    keys = events.order_by(*order).values_list("ts", "id")
    return keys[SEARCHED_ROWS - 1 : SEARCHED_ROWS].first()


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """How far back a reading goes: to the event ``last``, or to all there are (None). ``is_cut``:
    there are older ones that were not looked at."""

    last: Key | None
    is_cut: bool


def extent(filters: Filters, most: int) -> Extent:
    """Of the newest events that fit all but text and label, which have no index, so many."""
    events = matching(replace(filters, text="", label=None)).order_by("-ts", "-id")
    keys = list(events.values_list("ts", "id")[most - 1 : most + 1])
    return Extent(last=keys[0] if keys else None, is_cut=len(keys) > 1)


def steps(
    filters: Filters, within: Extent, columns: Sequence[str], size: int
) -> Iterator[list[tuple[Any, ...]]]:
    """The events within an extent, newest first, in short queries by keyset."""
    start: Key | None = None
    while True:
        events = _beyond(matching(filters), start, is_back=True)
        events = _beyond(events, within.last, is_back=False, with_key=True)
        rows = list(events.order_by("-ts", "-id").values_list("ts", "id", *columns)[:size])
        if rows:
            yield [row[2:] for row in rows]
        if len(rows) < size:
            return
        start = rows[-1][:2]


def _beyond(
    events: QuerySet[Event], key: Key | None, is_back: bool, *, with_key: bool = False
) -> QuerySet[Event]:
    """Those older (``is_back``) or newer than a key, or at it; all without one."""
    if key is None:
        return events
    side, equal = "lt" if is_back else "gt", "e" if with_key else ""
    ahead = Q(**{f"ts__{side}": key[0]}) | Q(**{"ts": key[0], f"id__{side}{equal}": key[1]})
    return events.filter(**{f"ts__{side}e": key[0]}).filter(ahead)


def _key(event: Event) -> Key:
    return event.ts, event.pk


def names_of_runs(runs: set[UUID]) -> Mapping[UUID, tuple[str, str]]:
    """Cluster and worker of each run."""
    rows: Any = Run.objects.filter(id__in=runs).values_list("id", "cluster", "worker")
    return {run: (cluster, worker) for run, cluster, worker in rows}
