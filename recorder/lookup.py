"""From what a reader types to the messages that are meant."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from django.db.models import Q, QuerySet, TextField
from django.db.models.functions import Cast

from recorder.models import Event
from recorder.trace import Place

MAX_PLACES = 50
MOST_TOLD = 20 * MAX_PLACES  # two rows tell of most messages
LOOKS = (20_000, 40_000, 60_000, 80_000)
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
        rows = Event.objects.filter(task_id=text)
        return Found(places=_places(rows.values_list("topic", "partition", "offset").distinct()))
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
    return Found(places=_places(rows.values_list("topic", "partition", "offset").distinct()))


def _labelled(text: str) -> Found:
    rows = _with_label(text).values_list("topic", "partition", "offset")
    told: list[tuple[str | None, int | None, int | None]] = []
    for part in _newest():
        told += rows.filter(part).order_by("-ts", "-id")[:MOST_TOLD]
        if len(_places(told)) == MAX_PLACES:
            break
    note = f"labels are looked for in the newest {sum(LOOKS):,} events"
    return Found(places=_places(told), note=note)


def _with_label(text: str) -> QuerySet[Event]:
    rows = Event.objects.filter(kind__in=("arranged", "task_started"))
    name, sign, value = (part.strip() for part in text.partition("="))
    if sign:
        return rows.filter(labels__contains={name: value})
    written = f": {json.dumps(text, ensure_ascii=False)}"
    return rows.alias(written=Cast("labels", TextField())).filter(written__contains=written)


def _newest() -> Iterator[Q]:
    """The newest events in parts, each older than the one before: a common label ends it soon."""
    until = Q()
    for count in LOOKS:
        times = Event.objects.filter(until).order_by("-ts", "-id").values_list("ts", flat=True)
        edge = list(times[count - 1 : count])
        yield until & Q(ts__gte=edge[0]) if edge else until
        if not edge:
            return
        until = Q(ts__lt=edge[0])


def _places(rows: Iterable[tuple[str | None, int | None, int | None]]) -> tuple[Place, ...]:
    found: dict[Place, None] = {}
    for topic, partition, offset in rows:
        if topic is None or partition is None or offset is None:
            continue
        if partition >= 0 and offset >= 0:  # no message has another place
            found[Place(topic=topic, partition=partition, offset=offset)] = None
        if len(found) == MAX_PLACES:
            break
    return tuple(found)
