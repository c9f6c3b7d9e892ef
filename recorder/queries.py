"""History by keyset: a page never counts, never skips rows it does not show."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db.models import QuerySet

from recorder.models import Event, Run
from recorder.reading import Key, Wanted, key_of, newest, oldest

PAGE_ROWS = 50
SEARCHED_ROWS = 10_000
"""Texts and labels have no index: a page looks at so many events and says how far it came."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters(Wanted):
    """The filters of the history."""

    cluster: str = ""
    worker: str = ""
    topic: str = ""
    partition: int | None = None
    label: tuple[str, str] | None = None
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Up to 50 events, newest first; ``older`` and ``newer`` are where the pages on both sides
    begin, None where there is none. ``searched_to``: a search went this far, and there is more."""

    rows: Sequence[Event]
    older: Key | None = None
    newer: Key | None = None
    searched_to: datetime | None = None


def _rows(filters: Filters) -> QuerySet[Event]:
    """Rows that hold all events that fit but for text and label, in no order yet."""
    rows = filters.holding(Event.objects.defer("stdout", "stderr"))
    if filters.cluster or filters.worker:
        runs = Run.objects.all()
        runs = runs.filter(cluster=filters.cluster) if filters.cluster else runs
        runs = runs.filter(worker=filters.worker) if filters.worker else runs
        rows = rows.filter(run__in=list(runs.values_list("id", flat=True)))
    if filters.topic:
        rows = rows.filter(topic=filters.topic)
    return rows if filters.partition is None else rows.filter(partition=filters.partition)


def is_found(filters: Filters, event: Event) -> bool:
    """Whether an event has the label and the text, which stand in no index."""
    labels = event.labels if isinstance(event.labels, dict) else {}
    if filters.label and labels.get(filters.label[0]) != filters.label[1]:
        return False
    text = filters.text.upper()
    return not text or any(text in each.upper() for each in _texts(event))


def _texts(event: Event) -> Iterator[str]:
    """What a search looks at: JSON as Postgres writes it."""
    yield from filter(None, (event.task_id, event.topic, event.sink))
    for value in (event.args, event.labels, event.data):
        if value is not None:
            yield json.dumps(value, ensure_ascii=False)


def page(filters: Filters, *, older: Key | None = None, newer: Key | None = None) -> Page:
    """The newest page, or the one older or newer than a key."""
    is_back = newer is None
    start = older if is_back else newer
    found, edge = _search(filters, told(filters, older=older, newer=newer))
    rows = found[:PAGE_ROWS]
    further = key_of(rows[-1]) if len(found) > PAGE_ROWS else edge
    back = key_of(rows[0]) if rows and start is not None else start
    return Page(
        rows=rows if is_back else rows[::-1],
        older=further if is_back else back,
        newer=back if is_back else further,
        searched_to=edge[0] if edge is not None and further == edge else None,
    )


def told(
    filters: Filters, *, older: Key | None = None, newer: Key | None = None
) -> Iterator[Event]:
    """All events that fit but for text and label, newest first; oldest first from ``newer`` on."""
    rows = _rows(filters)
    return filter(filters.fits, newest(rows, older) if newer is None else oldest(rows, newer))


def _search(filters: Filters, events: Iterator[Event]) -> tuple[list[Event], Key | None]:
    """A page's events and one more; and the last one that a search looked at, where it stopped."""
    is_search = bool(filters.text or filters.label)
    found: list[Event] = []
    for looked, event in enumerate(events, start=1):
        if not is_search or is_found(filters, event):
            found.append(event)
            if len(found) > PAGE_ROWS:
                return found, None
        if is_search and looked == SEARCHED_ROWS:
            return found, key_of(event)
    return found, None


def names_of_runs(runs: set[UUID]) -> Mapping[UUID, tuple[str, str]]:
    """Cluster and worker of each run."""
    rows: Any = Run.objects.filter(id__in=runs).values_list("id", "cluster", "worker")
    return {run: (cluster, worker) for run, cluster, worker in rows}
