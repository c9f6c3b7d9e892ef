"""From what a reader types to the messages that are meant."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass

from django.db.models import TextField
from django.db.models.functions import Cast

from recorder.models import Event
from recorder.trace import Place

MAX_PLACES = 50
NEWEST_ROWS = 200_000
MAX_OFFSET = 2**63 - 1
MAX_PARTITION = 2**31 - 1
_PLACE = re.compile(r"(?:(?P<topic>[A-Za-z0-9._-]{1,249})[/ ])?(?P<partition>\d+):(?P<offset>\d+)")
_TASK = re.compile(r"(?P<partition>\d+):(?P<offset>\d+):\d+(?:\.r\d+)*")


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
    name, sign, value = (part.strip() for part in text.partition("="))
    edge = Event.objects.order_by("-ts", "-id").values_list("ts", flat=True)
    oldest = list(edge[NEWEST_ROWS : NEWEST_ROWS + 1])
    rows = Event.objects.filter(kind__in=("arranged", "task_started"))
    if oldest:
        rows = rows.filter(ts__gte=oldest[0])
    if sign:
        rows = rows.filter(labels__contains={name: value})
    else:
        written = json.dumps(text, ensure_ascii=False)
        rows = rows.alias(written=Cast("labels", TextField())).filter(
            written__contains=f": {written}"
        )
    found = rows.order_by("-ts", "-id").values_list("topic", "partition", "offset")
    note = f"labels are looked for in the newest {NEWEST_ROWS:,} events"
    for most in (MAX_PLACES * 3, MAX_PLACES * 20):  # two rows tell of most messages
        told = list(found[:most])
        places = _places(told)
        if len(places) == MAX_PLACES or len(told) < most:
            break
    return Found(places=places, note=note)


def _places(rows: Iterable[tuple[str | None, int | None, int | None]]) -> tuple[Place, ...]:
    found: dict[Place, None] = {}
    for topic, partition, offset in rows:
        if topic is not None and partition is not None and offset is not None:
            found[Place(topic=topic, partition=partition, offset=offset)] = None
        if len(found) == MAX_PLACES:
            break
    return tuple(found)
