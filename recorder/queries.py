"""What the pages read of runs and events. Everything pages by keyset; nothing counts events."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from django.db.models import BigIntegerField, F, Q, QuerySet, Sum, TextField
from django.db.models.fields.json import KeyTextTransform
from django.db.models.functions import Cast, Now

from recorder.models import Event, Run

CONTROLLER_CLUSTER = "_control"
COUNTERS = ("consumed", "tasks_completed", "tasks_failed", "tasks_retried", "tasks_cancelled")
FATES = ("delivered", "filtered", "skipped", "dead_lettered")
TEXT_WINDOW = timedelta(hours=1)
"""How far back a text search without ``since`` looks."""

Direction = Literal["older", "newer"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EventFilters:
    """What to show; None or empty does not filter. ``label`` is ``name=value``.

    ``text`` is looked for in task id, args, labels and data, and only within a window:
    without ``since`` the last hour before ``until`` (or now).
    """

    kinds: Sequence[str] = ()
    cluster: str | None = None
    worker: str | None = None
    topic: str | None = None
    partition: int | None = None
    offset: int | None = None
    task_id: str | None = None
    label: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    text: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EventsPage:
    """Events, newest first; a cursor is None where there is nothing more."""

    events: Sequence[Event]
    older: str | None
    newer: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerTotals:
    """Sums over all runs of a name; None is unknown (no run of it ever beat)."""

    cluster: str
    worker: str
    consumed: int | None
    tasks_completed: int | None
    tasks_failed: int | None
    tasks_retried: int | None
    tasks_cancelled: int | None
    dead_letters: int | None
    fates: dict[str, int | None] = field(default_factory=dict)


def latest_runs(cluster: str | None = None, worker: str | None = None) -> QuerySet[Run]:
    """The latest run of each name, with its ``beat`` and, by the database's clock, ``beat_age``.

    ``beat_age`` is a timedelta, None when the run never beat. Controllers are left out.
    """
    runs = Run.objects.exclude(cluster=CONTROLLER_CLUSTER)
    if cluster is not None:
        runs = runs.filter(cluster=cluster)
    if worker is not None:
        runs = runs.filter(worker=worker)
    latest = runs.order_by("cluster", "worker", "-started_at", "-id").distinct("cluster", "worker")
    return latest.select_related("beat").annotate(beat_age=Now() - F("beat__beat_at"))


def _figure(*path: str) -> Sum:
    value: KeyTextTransform | str = "beat__counters"
    for key in path:
        value = KeyTextTransform(key, value)
    return Sum(Cast(value, BigIntegerField()))


def worker_totals(cluster: str | None = None, worker: str | None = None) -> list[WorkerTotals]:
    """Counters summed over all runs of each name: monotonic across restarts."""
    runs = Run.objects.exclude(cluster=CONTROLLER_CLUSTER)
    if cluster is not None:
        runs = runs.filter(cluster=cluster)
    if worker is not None:
        runs = runs.filter(worker=worker)
    sums = {f"sum_{name}": _figure(name) for name in (*COUNTERS, "dead_letters")}
    sums |= {f"fate_{name}": _figure("fates", name) for name in FATES}
    rows: list[dict[str, Any]] = list(
        runs.order_by("cluster", "worker").values("cluster", "worker").annotate(**sums)  # type: ignore[arg-type]
    )
    return [
        WorkerTotals(
            cluster=row["cluster"],
            worker=row["worker"],
            fates={name: row[f"fate_{name}"] for name in FATES},
            **{name: row[f"sum_{name}"] for name in (*COUNTERS, "dead_letters")},
        )
        for row in rows
    ]


def _matching(filters: EventFilters) -> QuerySet[Event]:
    events = Event.objects.all()
    if filters.kinds:
        events = events.filter(kind__in=list(filters.kinds))
    for name in ("topic", "partition", "offset", "task_id"):
        value = getattr(filters, name)
        if value is not None:
            events = events.filter(**{name: value})
    if filters.cluster is not None or filters.worker is not None:
        runs = Run.objects.all()
        if filters.cluster is not None:
            runs = runs.filter(cluster=filters.cluster)
        if filters.worker is not None:
            runs = runs.filter(worker=filters.worker)
        events = events.filter(run__in=runs.values("id"))
    if filters.label is not None:
        name, _, value = filters.label.partition("=")
        events = events.filter(labels__contains={name: value})
    return _within(events, filters)


def _within(events: QuerySet[Event], filters: EventFilters) -> QuerySet[Event]:
    since = filters.since
    if filters.text:
        since = since or (filters.until or datetime.now(UTC)) - TEXT_WINDOW
        found = Q(task_id__icontains=filters.text)
        for name in ("args", "labels", "data"):
            events = events.alias(**{f"{name}_text": Cast(name, TextField())})
            found |= Q(**{f"{name}_text__icontains": filters.text})
        events = events.filter(found)
    if since is not None:
        events = events.filter(ts__gte=since)
    if filters.until is not None:
        events = events.filter(ts__lt=filters.until)
    return events


def encode_cursor(event: Event) -> str:
    """The place of an event in ``(ts, id)`` order, as text for a URL."""
    return f"{event.ts.astimezone(UTC).strftime('%Y%m%dT%H%M%S.%f')}-{event.id}"


def decode_cursor(cursor: str) -> tuple[datetime, int]:
    """Read it back. Raises ValueError for anything else."""
    ts, _, event_id = cursor.partition("-")
    return datetime.strptime(ts, "%Y%m%dT%H%M%S.%f").replace(tzinfo=UTC), int(event_id)


def events_page(
    filters: EventFilters,
    cursor: str | None = None,
    direction: Direction = "older",
    limit: int = 50,
) -> EventsPage:
    """A page of events before (``older``) or after (``newer``) a cursor, newest first.

    Raises ValueError for a malformed cursor.
    """
    events = _matching(filters)
    is_older = direction == "older"
    if cursor is not None:
        ts, event_id = decode_cursor(cursor)
        if is_older:
            events = events.filter(ts__lte=ts).filter(Q(ts__lt=ts) | Q(id__lt=event_id))
        else:
            events = events.filter(ts__gte=ts).filter(Q(ts__gt=ts) | Q(id__gt=event_id))
    order = ("-ts", "-id") if is_older else ("ts", "id")
    found = list(events.order_by(*order)[: limit + 1])
    has_more, found = len(found) > limit, found[:limit]
    if not is_older:
        found.reverse()
    if not found:
        return EventsPage(events=(), older=None, newer=None)
    has_older = has_more if is_older else cursor is not None
    has_newer = cursor is not None if is_older else has_more
    return EventsPage(
        events=found,
        older=encode_cursor(found[-1]) if has_older else None,
        newer=encode_cursor(found[0]) if has_newer else None,
    )


def recorded_positions(cluster: str | None = None) -> dict[uuid.UUID, int]:
    """``recorded_seq`` by run: what the tailer may read up to."""
    runs = Run.objects.all() if cluster is None else Run.objects.filter(cluster=cluster)
    return dict(runs.values_list("id", "recorded_seq"))


def events_after(run: uuid.UUID, seq: int, limit: int = 500) -> list[Event]:
    """Events of a run after ``seq``, in ``seq`` order."""
    return list(Event.objects.filter(run=run, seq__gt=seq).order_by("seq")[:limit])
