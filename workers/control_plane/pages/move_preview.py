"""Preview of a rewind or skip: where it leads, and how many offsets that is, asked of Kafka."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from django.conf import settings
from django.utils import timezone

from domain.beat import PartitionBeat, PartitionState
from recorder.timestamps import EXPECTED, moment_of
from workers.broker.named_topics import NamedTopic, named_topics
from workers.broker.topic_reader import bounds_of, offset_at
from workers.control import Action

Figures = list[tuple[str, int | None]]
READ = ("source", "retries")
"""Roles of the topics whose commits are moved."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MovePreview:
    """What a move would do. ``given`` are the arguments to ask for it, the place found and pinned;
    empty while none is chosen. ``problem`` says why it would be refused."""

    given: Mapping[str, str] = field(default_factory=dict)
    figures: Figures = field(default_factory=list)
    problem: str = ""


class NoPlace(ValueError):
    """Place that was not given as one; the text says how it is."""


def move_preview(
    action: Action, cluster: str, given: Mapping[str, str], row: PartitionBeat | None
) -> MovePreview:
    """Return what a move of a partition would do. Raises NoPlace and BrokerUnavailable."""
    place = _place(cluster, given)
    low, high = _bounds(place)
    committed = row.committed if row is not None else None
    figures: Figures = [
        ("committed offset now", committed),
        ("first offset that the topic holds", low),
        ("end offset", high),
    ]
    problem = _problem(row)
    if not (given.get("offset") or given.get("time")):
        return MovePreview(figures=figures, problem=problem)
    offset = _offset(place, given)
    is_rewind = action is Action.REWIND_PARTITION
    what = "offsets run again, of which some may hold no message" if is_rewind else (
        "offsets are passed over, with the fate skipped"
    )  # fmt: skip
    outside, count = "", None
    if committed is not None:
        outside = _outside(offset, committed, low, high, is_rewind=is_rewind)
        count = None if outside else abs(committed - offset)
    figures = [(what, count), ("the offset that is read next", offset), *figures]
    problem = problem or outside
    pinned = {name: given[name] for name in ("topic", "partition") if name in given}
    return MovePreview(
        given={**pinned, "offset": str(offset), "expected": str(committed or 0)},
        figures=figures,
        problem=problem,
    )


def _problem(row: PartitionBeat | None) -> str:
    """Why the owner would refuse any move now."""
    if row is None or row.committed is None:
        return "its committed offset is unknown: a live owner must have it, and have committed once"
    if row.state == PartitionState.PAUSED and not row.has_pause:
        return "only its worker or cluster is paused: pause the partition itself first"
    if not row.has_pause:
        return f"it is {row.state or 'unknown'}, not paused: pause the partition first"
    if row.working:
        return f"it is not drained: {row.working} of its messages are worked on"
    return ""


def _outside(
    offset: int, committed: int, low: int | None, high: int | None, *, is_rewind: bool
) -> str:
    first = (low or 0) if is_rewind else max(low or 0, committed + 1)
    last = committed - 1 if is_rewind else high
    if first <= offset and (last is None or offset <= last):
        return ""
    if last is not None and first > last:
        where = "behind the commit to run again" if is_rewind else "ahead of the commit to skip"
        return f"offset: there is nothing {where}"
    return f"offset: expected {first} to {'the end' if last is None else last}, got {offset}"


def _place(cluster: str, given: Mapping[str, str]) -> tuple[NamedTopic, int] | None:
    """Topic (the source or the retry topic) and partition; None: not of a configuration here."""
    clusters = settings.DRAKKAR.clusters if settings.DRAKKAR else {}
    topics = named_topics(clusters[cluster]) if cluster in clusters else []
    number = given.get("partition", "")
    is_number = number.isascii() and number.isdigit() and len(number) < 11
    for topic in topics:
        if topic.role in READ and topic.topic == given.get("topic") and is_number:
            return topic, int(number)
    return None


def _bounds(place: tuple[NamedTopic, int] | None) -> tuple[int | None, int | None]:
    """First offset and end; unknown where this process has no such configuration."""
    if place is None:
        return None, None
    topic, number = place
    return bounds_of([topic]).get(topic.topic, {}).get(number, (None, None))


def _offset(place: tuple[NamedTopic, int] | None, given: Mapping[str, str]) -> int:
    text, time = given.get("offset", ""), given.get("time", "")
    if text and time:
        raise NoPlace("offset or time: expected one of them, got both")
    if text:
        if not (text.isascii() and text.isdigit() and len(text) < 19):
            raise NoPlace(f"offset: expected a whole number, got {text[:40]!r}")
        return int(text)
    moment = moment_of(time, timezone.now())
    if moment is None:
        raise NoPlace(f"time: expected {EXPECTED}, got {time[:40]!r}")
    if place is None:
        raise NoPlace("time: this partition is of no configuration here, give an offset")
    return offset_at(*place, int(moment.timestamp() * 1000))
