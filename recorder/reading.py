"""Stored rows as the events they stand for (``recorder.message_row``), in the order of time.

A folded row stands where its latest event stands, and the others at most ``SPAN`` before it. So a
reading that goes back in time holds back what may come before the next row's; and what is asked of
events in SQL is asked so that no row which holds some is left out: ``expand`` and ask again.
"""

from __future__ import annotations

import re
from bisect import insort
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import chain
from uuid import UUID

import orjson
from django.contrib.postgres.fields import ArrayField
from django.db.models import (
    DurationField,
    ExpressionWrapper,
    F,
    Func,
    Q,
    QuerySet,
    TextField,
    UUIDField,
    Value,
)
from django.db.models.fields.json import KeyTextTransform
from django.db.models.functions import Cast, Greatest, Least
from django.db.models.lookups import Contains, IContains, LessThanOrEqual
from django.utils import timezone

from recorder.message_row import (
    CODES,
    MESSAGE,
    MICROSECOND,
    OF_EVERY_ROW,
    SPAN,
    STEP_BIT,
    expand,
    row_of,
)
from recorder.models import Event, Run

Key = tuple[datetime, int]
"""The place of an event in the order of time: its ``ts`` and ``id``."""
LAST_ID = 2**63 - 1
FIRST_ROWS, MOST_ROWS = 100, 1000
"""Rows that a query of a long reading takes: few at first, then more."""
WINDOW_ROWS = 100_000
"""Rows that one reading looks at, at the most; whoever reads asks for those beyond."""
EDGE_STEPS = (timedelta(days=4), timedelta(days=40))
"""Stretches in which a window's edge is looked for before all of the history: of the tables of
days, only those of the stretch are opened."""
STRAY = timedelta(hours=1)
"""Longest time that a run's rows may come after its end, or before its start, by its clock."""
FEW_ROWS = 2000
MOST_LISTED = 100
"""Runs that a query names one by one."""
MILLISECOND = timedelta(milliseconds=1)
_WORD = re.compile(r"\w{3,}", re.ASCII)
_TASK = re.compile(
    r"(?P<partition>\d+):(?P<offset>\d+):(?P<name>\d+(?:~[0-9a-f]{32})?(?:\.r\d+)*)", re.ASCII
)


def events_of(rows: Iterable[Event]) -> list[Event]:
    """The events of all these rows, oldest first."""
    return sorted(chain.from_iterable(map(expand, rows)), key=_order)


def runs_of_cluster(
    cluster: str, since: datetime | None = None, until: datetime | None = None
) -> frozenset[UUID]:
    """Return the ids of a cluster's runs that may have told something in a time: no query joins
    them, the events may stand elsewhere."""
    runs = runs_between(since, until).filter(cluster=cluster)
    return frozenset(runs.values_list("id", flat=True))


def runs_between(since: datetime | None, until: datetime | None) -> QuerySet[Run]:
    """Runs that may have told something from ``since`` on and before ``until``; None bounds
    nothing."""
    runs = Run.objects.all()
    if until:
        runs = runs.filter(started_at__lt=shifted(until, STRAY))
    if since:
        ended = Q(beat__ended_at__isnull=False, beat__ended_at__lt=shifted(since, -STRAY))
        runs = runs.exclude(ended)
    return runs


def of_runs(runs: Iterable[UUID]) -> Q:
    """Rows of these runs."""
    asked = list(runs)
    if len(asked) <= MOST_LISTED:
        return Q(run__in=asked)
    # As one array: of a list Postgres weighs each run for each table of a day.
    array = Value(asked, output_field=ArrayField(UUIDField()))
    template = "(SELECT unnest(%(expressions)s::uuid[]))"
    return Q(run__in=Func(array, template=template, output_field=UUIDField()))


def key_of(event: Event) -> Key:
    """The event's place."""
    return event.ts, event.pk


def _order(event: Event) -> tuple[datetime, int, int]:
    return order_of((event.ts, event.pk))


def order_of(key: Key) -> tuple[datetime, int, int]:
    """By this places are compared: time, then row, then step."""
    ts, number = key
    return ts, row_of(number), number >> STEP_BIT


def newest(rows: QuerySet[Event], before: Key | None = None) -> Iterator[Event]:
    """The events of rows, newest first, from those before a place on; in short queries."""
    if before is not None:
        rows = rows.filter(told_before(shifted(before[0], MICROSECOND)))
    waiting: list[Event] = []
    for row in _newest_first(rows):
        while waiting and _order(waiting[-1]) > (row.ts, row.pk, 1):
            yield waiting.pop()
        for event in expand(row):
            if before is None or _order(event) < order_of(before):
                insort(waiting, event, key=_order)
    yield from reversed(waiting)


def oldest(rows: QuerySet[Event], after: Key) -> Iterator[Event]:
    """The events of rows, oldest first, from those after a place on; in short queries."""
    size = FIRST_ROWS
    further = rows.filter(ts__gte=after[0])
    while True:
        found = {row.pk: row for row in further.order_by("ts", "id")[:size]}
        has_more = len(found) == size
        until = list(found.values())[-1].ts if has_more else None
        if until is not None:
            # Rows of later events that hold earlier ones too.
            around = further.filter(told_before(shifted(until, MICROSECOND)), ts__gte=until)
            found |= {row.pk: row for row in around}
        for event in events_of(found.values()):
            if _order(event) > order_of(after) and (until is None or event.ts <= until):
                yield event
        if until is None:
            return
        after, further = (until, LAST_ID), rows.filter(ts__gt=until)
        size = min(2 * size, MOST_ROWS)


def _newest_first(rows: QuerySet[Event]) -> Iterator[Event]:
    size, start = FIRST_ROWS, Q()
    while True:
        found = list(rows.filter(start).order_by("-ts", "-id")[:size])
        yield from found
        if len(found) < size:
            return
        ts, number = key_of(found[-1])
        start = Q(ts__lte=ts) & (Q(ts__lt=ts) | Q(id__lt=number))
        size = min(2 * size, MOST_ROWS)


# -- what is asked of rows, and again of their events


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a reader wants to see; empty means all. Times are aware, ``until`` is left out."""

    kinds: Sequence[str] = ()
    without: Sequence[str] = ()
    task: str = ""
    since: datetime | None = None
    until: datetime | None = None

    def wants_kind(self, kind: str) -> bool:
        """Whether events of this kind are wanted."""
        return kind not in self.without and (not self.kinds or kind in self.kinds)

    def holding(self, rows: QuerySet[Event]) -> QuerySet[Event]:
        """Those of the rows that fit, and those of a message that may hold an event which does."""
        if self.kinds:
            rows = rows.filter(of_kinds(self.kinds))
        if self.without:
            rows = rows.exclude(kind__in=self.without)
        if self.task:
            rows = rows.filter(of_task(self.task))
        if self.since:
            rows = rows.filter(ts__gte=self.since)
        return rows.filter(told_before(self.until)) if self.until else rows

    def fits(self, event: Event) -> bool:
        """Whether a row's event is wanted."""
        return (
            self.wants_kind(event.kind)
            and (not self.task or event.task_id == self.task)
            and (self.since is None or event.ts >= self.since)
            and (self.until is None or event.ts < self.until)
        )


def edge_before(
    until: datetime | None, since: datetime | None = None, *, rows: int
) -> datetime | None:
    """Return where a window of so many rows ends that goes back from ``until`` (None: from the
    latest row): events from then on are in it. None where fewer lie between, down to ``since``."""
    told = Event.objects.order_by("-ts", "-id")
    told = told.filter(ts__lt=until) if until else told
    for step in EDGE_STEPS:
        low = shifted(until or timezone.now(), -step)
        if since is not None and low <= since:
            break
        edge = _ts_at(rows, told.filter(ts__gte=low))
        if edge is not None:
            return edge
    return _ts_at(rows, told.filter(ts__gte=since) if since else told)


def edge_after(since: datetime, until: datetime | None = None, *, rows: int) -> datetime | None:
    """Return where a window of so many rows ends that goes on from ``since``: events before then
    are in it. None where fewer lie between, up to ``until``."""
    told = Event.objects.filter(ts__gte=since, **({"ts__lt": until} if until else {}))
    edge = _ts_at(rows, told.order_by("ts", "id"))
    # Rows of one moment are not parted: what goes on gets somewhere.
    return edge and max(edge, shifted(since, MICROSECOND))


def few(rows: QuerySet[Event]) -> list[Event] | None:
    """Return all of these rows, oldest first; None where they are not few.

    For what is asked of all days at once: to plan an order, or many conditions, for each table of a
    day costs more than to read a few rows.
    """
    found = list(rows.order_by()[: FEW_ROWS + 1])
    return None if len(found) > FEW_ROWS else sorted(found, key=key_of)


def last_before(until: datetime) -> datetime | None:
    """Return the time of the latest row before then; None where there is none."""
    rows = Event.objects.filter(ts__lt=until).order_by("-ts", "-id")
    for step in EDGE_STEPS:
        found = _ts_at(0, rows.filter(ts__gte=shifted(until, -step)))
        if found is not None:
            return found
    return _ts_at(0, rows)


def row_with_id(number: int) -> Event | None:
    """Return the row of an event's id, looked for among the latest days first: ids have no key."""
    rows = Event.objects.filter(id=row_of(number))
    latest = (rows.filter(ts__gte=timezone.now() - step).first() for step in EDGE_STEPS)
    return next(filter(None, latest), None) or rows.first()


def _ts_at(place: int, rows: QuerySet[Event]) -> datetime | None:
    return rows.values_list("ts", flat=True)[place : place + 1].first()


def of_label(name: str, value: str) -> Q:
    """Rows of events that may bear that label: folded ones name it in their steps' text."""
    written = orjson.dumps({name: value}).decode().strip("{}")
    folded = Q(Contains(KeyTextTransform("steps", "data"), written), kind=MESSAGE)
    return Q(labels__contains={name: value}) | folded


def of_text(text: str) -> Q:
    """Rows of events that may hold a text, whatever the case of its letters.

    A row of one event holds it as it is. A folded one holds its words (not those that all such rows
    have, nor short ones) in its steps, unless its place does: ids there go without it.
    """
    whole = Q()
    for name in ("task_id", "topic", "sink"):
        whole |= Q(**{f"{name}__icontains": text})
    for name in ("args", "labels", "data"):
        whole |= Q(IContains(Cast(name, TextField()), text))
    folded = Q(kind=MESSAGE)
    for word in _WORD.findall(text):
        if word.upper() not in OF_EVERY_ROW:
            folded &= _has_word(word)
    return (~Q(kind=MESSAGE) & whole) | folded


def _has_word(word: str) -> Q:
    found = Q(IContains(KeyTextTransform("steps", "data"), word)) | Q(topic__icontains=word)
    if word.isdecimal():
        for name in ("partition", "offset"):
            found |= Q(Contains(Cast(name, TextField()), word))
    return found


def of_kinds(kinds: Iterable[str]) -> Q:
    """Rows of events of these kinds."""
    asked = list(kinds)
    found = Q(kind__in=asked)
    for code in (CODES[kind] for kind in asked if kind in CODES):
        found |= Q(Contains(KeyTextTransform("kinds", "data"), code), kind=MESSAGE)
    return found


def told_before(until: datetime) -> Q:
    """Rows of events told before then."""
    # Bounded by what a row holds at most: of other rows the time may be no interval at all.
    within_ms = Greatest(Value(0.0), Least(F("duration_ms"), Value(SPAN / MILLISECOND)))
    lasted = ExpressionWrapper(within_ms * Value(MILLISECOND), DurationField())
    began = Q(LessThanOrEqual(F("ts") - lasted, shifted(until, MILLISECOND)), kind=MESSAGE)
    return Q(ts__lte=shifted(until, SPAN)) & (Q(ts__lt=until) | began)


def shifted(at: datetime, by: timedelta) -> datetime:
    """Return the time so much later; the same where that leads out of the years there are."""
    try:
        return at + by
    except OverflowError:
        return at


def of_task(task_id: str) -> Q:
    """Rows of events of that task: folded ones stand at the message it is named after, and name it
    by the rest of its id."""
    found = Q(task_id=task_id)
    if (place := _TASK.fullmatch(task_id)) is not None:
        partition, offset = (int(place[name]) for name in ("partition", "offset"))
        named = Q(Contains(KeyTextTransform("steps", "data"), f'"{place["name"]}"'))
        found |= Q(named, partition=partition, offset=offset, kind=MESSAGE)
    return found
