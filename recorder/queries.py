"""History by keyset: a page never counts, never skips rows it does not show."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db.models import Q, QuerySet

from recorder.message_row import MICROSECOND
from recorder.models import Event, Run
from recorder.reading import (
    WINDOW_ROWS,
    Key,
    Wanted,
    edge_after,
    edge_before,
    key_of,
    newest,
    of_label,
    of_runs,
    of_text,
    oldest,
    runs_between,
    shifted,
)

PAGE_ROWS = 50
SEARCHED_ROWS = 30_000
"""Rows that a search for a text looks at: texts have no index."""
SEARCHED_EVENTS = 5000
"""Events of rows that may hold the text, that are opened for it."""
UNSEARCHED = frozenset({"started_at"})
"""Details that a text is not looked for in: folded rows do not hold them as they are shown."""
NONE_ASKED = Q()
NOISE = ("periodic_run", "committed")
"""Kinds that come by the clock and say little: left out unless they are asked for."""


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
    begin, None where there is none. ``searched_to``: the window ended here before the page was
    full, and there is more to look at; ``searched`` says how much it held."""

    rows: Sequence[Event]
    older: Key | None = None
    newer: Key | None = None
    searched_to: datetime | None = None
    searched: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Stretch of the history that one answer looks at, which is bounded whatever is asked.

    ``filters`` are those asked, narrowed to it; ``edge`` is where to go on, None where it reaches
    to the end of what was asked.
    """

    filters: Filters
    older: Key | None = None
    newer: Key | None = None
    edge: Key | None = None

    def rows(self) -> QuerySet[Event]:
        """Rows that hold all events that fit but for text, in no order yet."""
        return _rows(self.filters)

    def told(self, further: Q = NONE_ASKED) -> Iterator[Event]:
        """All events that fit but for text and label, newest first; oldest first from ``newer``.
        Some of those without the text are left out; ``further`` is asked of their rows."""
        has_text = of_text(self.filters.text) if self.filters.text else NONE_ASKED
        rows = self.rows().filter(has_text, further)
        events = newest(rows, self.older) if self.newer is None else oldest(rows, self.newer)
        return filter(self.filters.fits, events)


def window(filters: Filters, *, older: Key | None = None, newer: Key | None = None) -> Window:
    """Return the window that begins at a key, or at the end of what is asked.

    Holds at most ``WINDOW_ROWS`` rows, of whatever kind, ``SEARCHED_ROWS`` of a text; all rows of a
    task, which are few.
    """
    most = _most(filters)
    if filters.task:
        return Window(filters=filters, older=older, newer=newer)
    if newer is not None:
        since = max(filter(None, (newer[0], filters.since)))
        if (ahead := edge_after(since, filters.until, rows=most)) is None:
            return Window(filters=filters, newer=newer)
        narrowed = replace(filters, until=ahead)
        return Window(filters=narrowed, newer=newer, edge=(ahead, 0))
    reached = older and (older[0] if older[1] <= 0 else shifted(older[0], MICROSECOND))
    start = min(filter(None, (filters.until, reached)), default=None)
    if (behind := edge_before(start, filters.since, rows=most)) is None:
        return Window(filters=filters, older=older)
    narrowed = replace(filters, since=behind)
    return Window(filters=narrowed, older=older, edge=(behind, 0))


def _most(filters: Filters) -> int:
    return SEARCHED_ROWS if filters.text else WINDOW_ROWS


def _rows(filters: Filters) -> QuerySet[Event]:
    """Rows that hold all events that fit but for text and label, in no order yet."""
    rows = filters.holding(Event.objects.defer("stdout", "stderr"))
    if filters.cluster or filters.worker:
        rows = rows.filter(of_runs(_runs(filters).values_list("id", flat=True)))
    if filters.topic:
        rows = rows.filter(topic=filters.topic)
    if filters.label:
        rows = rows.filter(of_label(*filters.label))
    return rows if filters.partition is None else rows.filter(partition=filters.partition)


def _runs(filters: Filters) -> QuerySet[Run]:
    """Runs of that name that lived in the time that is looked at."""
    runs = runs_between(filters.since, filters.until)
    runs = runs.filter(cluster=filters.cluster) if filters.cluster else runs
    return runs.filter(worker=filters.worker) if filters.worker else runs


def is_found(filters: Filters, event: Event) -> bool:
    """Whether an event has the label and the text."""
    labels = event.labels if isinstance(event.labels, dict) else {}
    if filters.label and labels.get(filters.label[0]) != filters.label[1]:
        return False
    text = filters.text.upper()
    return not text or any(text in each.upper() for each in texts_of(event))


def texts_of(event: Event) -> Iterator[str]:
    """What a search looks at: JSON as Postgres writes it."""
    yield from filter(None, (event.task_id, event.topic, event.sink))
    data = event.data
    if isinstance(data, dict):
        data = {name: value for name, value in data.items() if name not in UNSEARCHED}
    for value in (event.args, event.labels, data):
        if value is not None:
            yield json.dumps(value, ensure_ascii=False)


def page(filters: Filters, *, older: Key | None = None, newer: Key | None = None) -> Page:
    """The newest page, or the one older or newer than a key."""
    return page_of(window(filters, older=older, newer=newer))


def page_of(within: Window) -> Page:
    """The page with which a window begins."""
    filters, is_back = within.filters, within.newer is None
    start = within.older if is_back else within.newer
    found, edge = _search(within)
    rows = found[:PAGE_ROWS]
    further = key_of(rows[-1]) if len(found) > PAGE_ROWS else edge
    back = key_of(rows[0]) if rows and start is not None else start
    return Page(
        rows=rows if is_back else rows[::-1],
        older=further if is_back else back,
        newer=back if is_back else further,
        searched_to=edge[0] if edge is not None and further == edge else None,
        searched=f"{_most(filters):,} rows at the most",
    )


def _search(within: Window) -> tuple[list[Event], Key | None]:
    """A page's events and one more; and where the looking ended before the page was full."""
    filters = within.filters
    found: list[Event] = []
    for looked, event in enumerate(within.told(), start=1):
        if is_found(filters, event):
            found.append(event)
            if len(found) > PAGE_ROWS:
                return found, None
        if filters.text and looked == SEARCHED_EVENTS:
            return found, key_of(event)
    return found, within.edge


def names_of_runs(runs: set[UUID]) -> Mapping[UUID, tuple[str, str]]:
    """Cluster and worker of each run."""
    rows: Any = Run.objects.filter(id__in=runs).values_list("id", "cluster", "worker")
    return {run: (cluster, worker) for run, cluster, worker in rows}
