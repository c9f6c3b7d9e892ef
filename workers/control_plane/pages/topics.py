"""``/topics``: the topics that the configuration names, their groups' lag, their last messages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse, QueryDict
from django.shortcuts import render
from django.views.decorators.http import require_safe

from recorder.timestamps import utc_at
from workers.broker.base import BrokerUnavailable
from workers.broker.kafka_lag import Bounds
from workers.broker.named_topics import NamedTopic, named_topics
from workers.broker.topic_reader import (
    MAX_MESSAGES,
    READERS,
    Read,
    bounds_of,
    lags_of,
    last_messages,
)
from workers.config import ClusterConfig

SHOWN_BYTES = 2048
SHOWN_HEADERS = 40
COUNTS = (5, 10, 20, MAX_MESSAGES)


class BadChoice(ValueError):
    """Topic, partition or count that cannot be shown; the text says what can."""


@dataclass(slots=True)
class Line:
    """Topic on the page. ``partitions`` is None while Kafka is away, empty when the topic is
    not there; ``lags`` are the source's group's."""

    cluster: str
    named: NamedTopic
    config: ClusterConfig
    partitions: dict[int, Bounds] | None = None
    lags: dict[int, int] | None = None
    error: str = ""

    @property
    def kept(self) -> int | None:
        """Offsets between the first and the last; some may hold no message any more."""
        if not self.partitions:
            return None
        return sum(end - first for first, end in self.partitions.values())

    @property
    def end(self) -> int | None:
        """Sum of the end offsets."""
        return sum(end for _, end in self.partitions.values()) if self.partitions else None

    @property
    def lag(self) -> int | None:
        """Lag of the group over all partitions."""
        return None if self.lags is None else sum(self.lags.values())

    @property
    def rows(self) -> list[tuple[int, int, int, int | None]]:
        """Partition, first offset, end offset, lag."""
        known, lags = self.partitions or {}, self.lags or {}
        return [(number, *known[number], lags.get(number)) for number in sorted(known)]


@dataclass(slots=True)
class Reading:
    """Choice of the reader: a topic, and its messages."""

    line: Line
    partition: int | None
    count: int
    messages: list[dict[str, Any]] = field(default_factory=list)


@require_safe
def topics(request: HttpRequest) -> HttpResponse:
    """All topics; the chosen one with its partitions and last messages. Kafka away is shown."""
    lines, error, reading = _lines(request.GET.get("cluster", "")), "", None
    _look(lines)
    try:
        reading = _chosen(lines, request.GET)
        if reading is not None and reading.line.partitions:
            reading.messages = [_shown(each) for each in _read(reading)]
    except (BadChoice, BrokerUnavailable) as exc:
        error = str(exc)
    context = {
        "lines": lines,
        "groups": [line for line in lines if line.named.role == "source"],
        "reading": reading,
        "counts": COUNTS,
        "error": error,
        "away": sorted({line.error for line in lines if line.error}),
    }
    return render(request, "topics.html", context, status=400 if error and not reading else 200)


def _lines(cluster: str) -> list[Line]:
    clusters = settings.DRAKKAR.clusters if settings.DRAKKAR else {}
    return [
        Line(name, named, config)
        for name, config in clusters.items()
        if cluster in ("", name)
        for named in named_topics(config)
    ]


def _look(lines: Sequence[Line]) -> None:
    """Ask each place once, then each group; places and groups that do not answer stay unknown."""
    places: dict[Any, list[Line]] = {}
    for line in lines:
        places.setdefault(line.named.place, []).append(line)
    _at_once(_look_at_place, places.values())
    _at_once(_look_at_group, [x for x in lines if x.named.role == "source" and x.partitions])


def _at_once(ask: Callable[[Any], None], things: Iterable[Any]) -> None:
    with ThreadPoolExecutor(READERS) as pool:
        asked: list[Future[None]] = [pool.submit(ask, thing) for thing in things]
    for each in asked:
        each.result()


def _look_at_place(lines: Sequence[Line]) -> None:
    try:
        found = bounds_of([line.named for line in lines])
    except BrokerUnavailable as exc:
        for line in lines:
            line.error = str(exc)
        return
    for line in lines:
        line.partitions = found.get(line.named.topic, {})


def _look_at_group(line: Line) -> None:
    try:
        line.lags = lags_of(line.named, line.config.kafka, line.partitions or {})
    except BrokerUnavailable as exc:
        line.error = str(exc)


def _chosen(lines: Sequence[Line], asked: QueryDict) -> Reading | None:
    """Return what the query wants to read; None: nothing. Raises BadChoice."""
    topic = asked.get("topic", "")
    if not topic:
        return None
    found = [x for x in lines if x.named.topic == topic and asked.get("of", "") in ("", x.cluster)]
    if not found:
        known = ", ".join(dict.fromkeys(line.named.topic for line in lines)) or "none"
        raise BadChoice(f"topic: expected one that a cluster names ({known}), got {topic[:80]}")
    partition = _number(asked, "partition", None)
    known_partitions = found[0].partitions
    if partition is not None and known_partitions and partition not in known_partitions:
        raise BadChoice(f"partition: expected one of {topic}, got {partition}")
    count = _number(asked, "last", COUNTS[1])
    assert count is not None
    if not 1 <= count <= MAX_MESSAGES:
        raise BadChoice(f"last: expected 1 to {MAX_MESSAGES}, got {count}")
    return Reading(found[0], partition, count)


def _number(asked: QueryDict, name: str, default: int | None) -> int | None:
    text = asked.get(name, "").strip()
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise BadChoice(f"{name}: expected a whole number, got {text[:40]}")
    return int(text)


def _read(reading: Reading) -> list[Read]:
    known = reading.line.partitions or {}
    if reading.partition is not None:
        known = {reading.partition: known[reading.partition]}
    return last_messages(reading.line.named, known, reading.count)


def _shown(read: Read) -> dict[str, Any]:
    at = read.timestamp_ms
    return {
        "partition": read.partition,
        "offset": read.offset,
        "at": None if at is None or at < 0 else utc_at(at / 1000),
        "timestamp_ms": None if at is None or at < 0 else at,
        "key": _text(read.key),
        "value": _text(read.value),
        "headers": [(name, _text(value)) for name, value in read.headers[:SHOWN_HEADERS]],
        "more_headers": max(0, len(read.headers) - SHOWN_HEADERS),
    }


def _text(content: bytes | None) -> dict[str, Any] | None:
    """Return the first 2 KiB as text, as hexadecimal where they are not text; None stays none."""
    if content is None:
        return None
    start = content[:SHOWN_BYTES]
    try:
        text, form = start.decode("utf-8"), "text"
    except UnicodeDecodeError as exc:
        # A character cut in two at the end does not make it binary.
        if exc.start < len(start) - 3 or len(content) == len(start):
            text, form = start.hex(" "), "hex"
        else:
            text, form = start[: exc.start].decode("utf-8"), "text"
    return {"text": text, "form": form, "size": len(content), "is_cut": len(content) > len(start)}
