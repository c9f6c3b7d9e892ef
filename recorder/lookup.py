"""From what a reader types to the messages that are meant."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import reduce
from itertools import islice
from operator import or_
from uuid import UUID

import orjson
from django.db.models import Q, QuerySet, TextField
from django.db.models.fields.json import KeyTextTransform
from django.db.models.functions import Cast
from django.db.models.lookups import Contains

from domain.fate import Fate
from recorder.message_row import MESSAGE
from recorder.models import Event
from recorder.queries import Filters, window
from recorder.reading import WINDOW_ROWS, Key, events_of, key_of, of_label, of_task
from recorder.spans import detail
from recorder.trace import Place

MAX_PLACES = 50
MOST_TOLD = 20 * MAX_PLACES  # two rows tell of most messages
LOOKED_EVENTS = 10_000
"""Events of the rows in question that one search opens, at the most."""
LABELLED = ("arranged", "task_started")
"""Kinds that tell the labels of a message or task first."""
FAILED = "failed"
STATES = (*Fate, FAILED)
"""What a search for messages may ask: a fate, or that a task failed, whatever became of it."""
FOLDED_SLACK_MS = 100.0
"""By so much a folded row may last less than its message."""
ENDS_WITHIN = timedelta(days=1)
"""So long after a message was told of its end is looked for."""
MAX_OFFSET = 2**63 - 1
MAX_PARTITION = 2**31 - 1
_PLACE = re.compile(r"(?:(?P<topic>[A-Za-z0-9._-]{1,249})[/ ])?(?P<partition>\d+):(?P<offset>\d+)")
_TASK = re.compile(r"(?P<partition>\d+):(?P<offset>\d+):\d+(?:~[0-9a-f]{32})?(?:\.r\d+)*")


class NotUnderstood(ValueError):
    """A question that names no message; its text is for the reader."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """Which messages; empty means all. Times are aware, ``until`` is left out; ``older`` is where a
    search before went up to. ``state`` is one of ``STATES``."""

    question: str = ""
    state: str = ""
    slower_ms: float | None = None
    since: datetime | None = None
    until: datetime | None = None
    cluster: str = ""
    worker: str = ""
    older: Key | None = None

    @property
    def is_narrowed(self) -> bool:
        """Whether more is asked than by the question."""
        given = (self.state, self.slower_ms, self.since, self.until, self.older)
        return any(each is not None and each != "" for each in given)


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """A message in a run: its fate and how long it took (None: none known yet), its labels."""

    place: Place
    run: UUID
    at: datetime
    fate: str | None = None
    duration_ms: float | None = None
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Messages that fit, newest first. ``older`` is where to go on, None where all was looked at;
    ``looked_to`` is the time that the search came to, if there is more."""

    places: tuple[Place, ...] = ()
    matches: tuple[Match, ...] = ()
    older: Key | None = None
    looked_to: datetime | None = None

    @property
    def note(self) -> str:
        """How far was looked, for the reader; empty where all was."""
        if self.looked_to is None:
            return ""
        back = f"{self.looked_to:%Y-%m-%d %H:%M:%S} UTC"
        return f"looked at {WINDOW_ROWS:,} rows at the most, back to {back}"


def find(question: str) -> Found:
    """Messages by ``[topic/]partition:offset``, task id, or label (``name=value`` or a value), the
    latest of them. Raises NotUnderstood."""
    return search(Search(question=question))


def search(asked: Search) -> Found:
    """Messages that fit, of one window of the history (``recorder.queries.window``); those of a
    place or a task wherever they are. Raises NotUnderstood.
    """
    text = asked.question.strip().replace("\0", "")[:300]
    if not text and not asked.is_narrowed:
        raise NotUnderstood("expected partition:offset, a task id or a label, got nothing")
    task, place = _TASK.fullmatch(text), _PLACE.fullmatch(text)
    if task is not None:
        _check(task)
        events = events_of(_rows().filter(of_task(text)).order_by("ts", "id")[:MOST_TOLD])
        return Found(places=_places(event for event in events if event.task_id == text))
    if place is not None:
        return _at(place)
    return _latest(asked, text)


def _check(match: re.Match[str]) -> tuple[int, int]:
    partition, offset = int(match["partition"]), int(match["offset"])
    if partition > MAX_PARTITION or offset > MAX_OFFSET:
        raise NotUnderstood(f"expected a partition and an offset, got {match[0]}: out of range")
    return partition, offset


def _at(match: re.Match[str]) -> Found:
    partition, offset = _check(match)
    if match["topic"]:
        place = Place(topic=match["topic"], partition=partition, offset=offset)
        return Found(places=(place,))
    rows = Event.objects.filter(partition=partition, offset=offset).exclude(kind="committed")
    return Found(places=_places(rows.distinct("topic").only("topic", "partition", "offset")))


def _latest(asked: Search, text: str) -> Found:
    """The newest messages of a window that bear a label, or ended so."""
    kinds = (
        LABELLED if text else ("task_failed",) if asked.state == FAILED else ("message_completed",)
    )
    filters = Filters(
        kinds=kinds,
        cluster=asked.cluster,
        worker=asked.worker,
        since=asked.since,
        until=asked.until,
    )
    within = window(filters, older=asked.older)
    events = within.told(_bearing(text) if text else _ended(asked))
    found: dict[tuple[Place, UUID], Match] = {}
    looked, edge = 0, within.edge
    while part := list(islice(events, MAX_PLACES)):
        looked += len(part)
        told = [event for event in part if not text or _bears(event, _written(text))]
        for match in _matches(told):
            if _fits(asked, match):
                found.setdefault((match.place, match.run), match)
            if len(found) == MAX_PLACES:
                return _found(found, key_of(part[-1]))
        if looked >= LOOKED_EVENTS:
            edge = key_of(part[-1])
            break
    return _found(found, edge)


def _found(found: Mapping[tuple[Place, UUID], Match], edge: Key | None) -> Found:
    places = tuple(dict.fromkeys(place for place, _ in found))
    return Found(
        places=places, matches=tuple(found.values()), older=edge, looked_to=edge and edge[0]
    )


def _fits(asked: Search, match: Match) -> bool:
    is_slow = asked.slower_ms is None or (
        match.duration_ms is not None and match.duration_ms >= asked.slower_ms
    )
    return is_slow and asked.state in ("", FAILED, match.fate)


def _bearing(text: str) -> Q:
    """Rows that may bear a label, or any label of that value."""
    name, sign, value = (part.strip() for part in text.partition("="))
    if sign:
        return of_label(name, value)
    folded = Contains(KeyTextTransform("steps", "data"), f":{orjson.dumps(text).decode()}")
    known = Contains(Cast("labels", TextField()), f": {json.dumps(text, ensure_ascii=False)}")
    return Q(known, labels__isnull=False) | Q(folded, kind=MESSAGE)


def _written(text: str) -> str:
    """A label, or the value of one, as ``json`` writes it."""
    name, sign, value = (part.strip() for part in text.partition("="))
    given = {name: value} if sign else text
    return json.dumps(given, ensure_ascii=False).strip("{}")


def _bears(event: Event, written: str) -> bool:
    return written in json.dumps(event.labels, ensure_ascii=False)


def _ended(asked: Search) -> Q:
    """Rows of messages that may have ended so: what went as usual stands in one row."""
    plain, folded = Q(), Q()
    if asked.state and asked.state != FAILED:
        plain = Q(data__fate=asked.state)
    if asked.slower_ms is not None and asked.state != FAILED:
        plain &= Q(duration_ms__gte=asked.slower_ms)
        folded = Q(duration_ms__gte=asked.slower_ms - FOLDED_SLACK_MS)
    return (plain & ~Q(kind=MESSAGE)) | (folded & Q(kind=MESSAGE))


def _matches(told: Sequence[Event]) -> Iterator[Match]:
    """The messages of events, with their ends in the same run."""
    events = [event for event in told if _place_of(event) is not None]
    if not events:
        return
    places = {place for event in events if (place := _place_of(event))}
    first, last = min(each.ts for each in events), max(each.ts for each in events)
    where = reduce(or_, (Q(partition=p.partition, offset=p.offset) for p in places))
    rows = _rows().filter(
        where, ts__gte=first - ENDS_WITHIN, ts__lt=last + ENDS_WITHIN,
        kind__in=(MESSAGE, "message_completed", "arranged"), run__in={each.run for each in events},
    )  # fmt: skip
    ends: dict[tuple[Place | None, UUID], dict[str, Event]] = {}
    for row in events_of(rows.order_by("-ts", "-id")[:MOST_TOLD]):
        ends.setdefault((_place_of(row), row.run), {})[row.kind] = row
    for event in events:
        place = _place_of(event)
        assert place is not None
        of_message = ends.get((place, event.run), {})
        end, arranged = of_message.get("message_completed"), of_message.get("arranged")
        fate = detail(end).get("fate") if end else None
        labels = arranged.labels if arranged and isinstance(arranged.labels, dict) else {}
        yield Match(
            place=place, run=event.run, at=end.ts if end else event.ts,
            fate=str(fate) if fate else None, duration_ms=end.duration_ms if end else None,
            labels=labels,
        )  # fmt: skip


def _rows() -> QuerySet[Event]:
    return Event.objects.defer("stdout", "stderr", "args")


def _place_of(event: Event) -> Place | None:
    """The place of an event's message; None where no message has it."""
    topic, partition, offset = event.topic, event.partition, event.offset
    if topic is None or partition is None or offset is None or partition < 0 or offset < 0:
        return None
    return Place(topic=topic, partition=partition, offset=offset)


def _places(events: Iterable[Event]) -> tuple[Place, ...]:
    found = dict.fromkeys(place for event in events if (place := _place_of(event)))
    return tuple(islice(found, MAX_PLACES))
