"""From what a reader types to the messages that are meant."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import orjson
from django.db.models import Q, QuerySet, TextField
from django.db.models.fields.json import KeyTextTransform
from django.db.models.functions import Cast
from django.db.models.lookups import Contains

from recorder.message_row import MESSAGE
from recorder.models import Event
from recorder.reading import events_of, newest, of_task
from recorder.trace import Place

MAX_PLACES = 50
MOST_TOLD = 20 * MAX_PLACES  # two rows tell of most messages
LOOKS = (20_000, 40_000, 60_000, 80_000)
LABELLED = ("arranged", "task_started")
"""Kinds that tell the labels of a message or task first."""
MAX_OFFSET = 2**63 - 1
MAX_PARTITION = 2**31 - 1
_PLACE = re.compile(r"(?:(?P<topic>[A-Za-z0-9._-]{1,249})[/ ])?(?P<partition>\d+):(?P<offset>\d+)")
_TASK = re.compile(r"(?P<partition>\d+):(?P<offset>\d+):\d+(?:~[0-9a-f]{32})?(?:\.r\d+)*")


class NotUnderstood(ValueError):
    """A question that names no message; its text is for the reader."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Messages that fit, and a note on how far was looked."""

    places: tuple[Place, ...]
    note: str = ""


def find(question: str) -> Found:
    """Messages by ``[topic/]partition:offset``, task id, or label (``name=value`` or a value).

    Labels are looked for in the newest rows only, which the note says. Raises NotUnderstood.
    """
    text = question.strip().replace("\0", "")[:300]
    if not text:
        raise NotUnderstood("expected partition:offset, a task id or a label, got nothing")
    task, place = _TASK.fullmatch(text), _PLACE.fullmatch(text)
    if task is not None:
        _check(task)
        events = events_of(_rows().filter(of_task(text)).order_by("ts", "id")[:MOST_TOLD])
        return Found(places=_places(event for event in events if event.task_id == text))
    if place is not None:
        return _at(place)
    return _labelled(text)


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


def _labelled(text: str) -> Found:
    name, sign, value = (part.strip() for part in text.partition("="))
    rows = _with_label({name: value}) if sign else _with_value(text)
    written = json.dumps({name: value} if sign else text, ensure_ascii=False).strip("{}")
    told: list[Event] = []
    for part in _newest():
        found = (event for event in newest(rows.filter(part)) if _bears(event, written))
        told += islice(found, MOST_TOLD)
        if len(_places(told)) == MAX_PLACES:
            break
    note = f"labels are looked for in the newest {sum(LOOKS):,} events"
    return Found(places=_places(told), note=note)


def _with_label(label: dict[str, str]) -> QuerySet[Event]:
    written = orjson.dumps(label).decode().strip("{}")
    return _rows().filter(Q(kind__in=LABELLED, labels__contains=label) | _written(written))


def _with_value(text: str) -> QuerySet[Event]:
    rows = _rows().alias(text=Cast("labels", TextField()))
    known = Q(kind__in=LABELLED, text__contains=f": {json.dumps(text, ensure_ascii=False)}")
    return rows.filter(known | _written(f":{orjson.dumps(text).decode()}"))


def _written(text: str) -> Q:
    return Q(Contains(KeyTextTransform("steps", "data"), text), kind=MESSAGE)


def _bears(event: Event, written: str) -> bool:
    return event.kind in LABELLED and written in json.dumps(event.labels, ensure_ascii=False)


def _newest() -> Iterator[Q]:
    """Return the newest events in parts, each older than the one before: a common label ends it
    soon."""
    until = Q()
    for count in LOOKS:
        times = Event.objects.filter(until).order_by("-ts", "-id").values_list("ts", flat=True)
        edge = list(times[count - 1 : count])
        yield until & Q(ts__gte=edge[0]) if edge else until
        if not edge:
            return
        until = Q(ts__lt=edge[0])


def _rows() -> QuerySet[Event]:
    return Event.objects.defer("stdout", "stderr", "args")


def _places(events: Iterable[Event]) -> tuple[Place, ...]:
    found: dict[Place, None] = {}
    for event in events:
        topic, partition, offset = event.topic, event.partition, event.offset
        if topic is None or partition is None or offset is None:
            continue
        if partition >= 0 and offset >= 0:  # no message has another place
            found[Place(topic=topic, partition=partition, offset=offset)] = None
        if len(found) == MAX_PLACES:
            break
    return tuple(found)
