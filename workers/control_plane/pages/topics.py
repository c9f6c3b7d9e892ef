"""``/topics``: the topics that the configuration names, their groups' lag, and their messages: the
last ones, those from an offset or a time on, and those that hold a text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse, QueryDict
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.http import require_safe

from domain.text_bounds import text_in
from recorder.timestamps import EXPECTED, moment_of, utc_at
from workers.broker.base import BrokerUnavailable
from workers.broker.kafka_lag import Bounds
from workers.broker.named_topics import NamedTopic, named_topics
from workers.broker.topic_reader import (
    MAX_LOOKED_AT,
    MAX_MESSAGES,
    READERS,
    Found,
    Read,
    bounds_of,
    lags_of,
    last_messages,
    messages_from,
    offsets_at,
)
from workers.config import ClusterConfig

SHOWN_BYTES = 2048
SHOWN_HEADERS = 40
MAX_FIND = 200
EXCERPT, BEFORE = 110, 30
"""Characters of a value in its row, and those before a text that was searched for."""
FOLLOWED = 500
"""Messages that are looked at each time while a topic is followed, two seconds apart."""
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
    """Choice of the reader: a topic, and its messages. They begin at ``start``, an offset or a
    time, or are the last ones; ``find`` is a text in their keys or values."""

    line: Line
    partition: int | None
    count: int
    find: str = ""
    start: int | datetime | None = None
    is_followed: bool = False
    found: Found = field(default_factory=Found)
    messages: list[dict[str, Any]] = field(default_factory=list)

    @property
    def known(self) -> dict[int, Bounds]:
        """Bounds of the partitions that are read."""
        known = self.line.partitions or {}
        return known if self.partition is None else {self.partition: known[self.partition]}

    @property
    def newer(self) -> int | None:
        """Offset at which the one partition goes on; None: at its end, or it is several."""
        if self.partition is None or self.start is None or not self.known:
            return None
        after = self.found.next_offsets.get(self.partition)
        return after if after is not None and after < self.known[self.partition][1] else None

    @property
    def older(self) -> int | None:
        """Offset of as many messages before the first one shown of the one partition; None: there
        is none before."""
        offsets = [each["offset"] for each in self.messages]
        if self.partition is None or self.find or not offsets:
            return None
        first = self.known[self.partition][0]
        return max(first, min(offsets) - self.count) if min(offsets) > first else None


@require_safe
def topics(request: HttpRequest) -> HttpResponse:
    """All topics; the chosen one with its partitions and last messages. Kafka away is shown."""
    lines, error, reading = _lines(request.GET.get("cluster", "")), "", None
    if request.GET.get("follow"):
        # Asked again and again: of the one topic only.
        lines = [line for line in lines if _is_asked(line, request.GET)][:1] or lines
    _look(lines)
    try:
        reading = _chosen(lines, request.GET)
        if reading is not None and reading.line.partitions:
            reading.found = _read(reading)
            reading.messages = [_shown(each, reading.find) for each in reading.found.messages]
    except (BadChoice, BrokerUnavailable) as exc:
        error = str(exc)
    context = {
        "lines": lines,
        "groups": [line for line in lines if line.named.role == "source"],
        "reading": reading,
        "counts": COUNTS,
        "asked": request.GET,
        "max_find": MAX_FIND,
        "max_looked_at": MAX_LOOKED_AT,
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


def _is_asked(line: Line, asked: QueryDict) -> bool:
    is_of = asked.get("of", "") in ("", line.cluster)
    return is_of and line.named.topic == asked.get("topic", "")


def _chosen(lines: Sequence[Line], asked: QueryDict) -> Reading | None:
    """Return what the query wants to read; None: nothing. Raises BadChoice."""
    topic = asked.get("topic", "")
    if not topic:
        return None
    found = [line for line in lines if _is_asked(line, asked)]
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
    find = text_in(asked, "find")
    if len(find) > MAX_FIND:
        raise BadChoice(f"find: expected at most {MAX_FIND} characters, got {len(find)}")
    start, is_followed = _start(text_in(asked, "from"), partition), bool(asked.get("follow"))
    if is_followed and start is not None:
        raise BadChoice("from: expected none while the last messages are followed")
    return Reading(found[0], partition, count, find, start, is_followed)


def _start(text: str, partition: int | None) -> int | datetime | None:
    """Return the offset or time from which messages are wanted; None: the last ones. Raises
    BadChoice."""
    if not text:
        return None
    if text.isascii() and text.isdigit():
        if partition is None:
            raise BadChoice(f"partition: expected one, for offset {text[:40]} is of a partition")
        if int(text[:20]) >= 2**63:
            raise BadChoice(f"from: expected an offset below 2^63, got {text[:40]}")
        return int(text)
    if (at := moment_of(text, timezone.now())) is None:
        raise BadChoice(f"from: expected an offset, {EXPECTED}, got {text[:40]}")
    return at


def _number(asked: QueryDict, name: str, default: int | None) -> int | None:
    text = asked.get(name, "").strip()
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise BadChoice(f"{name}: expected a whole number, got {text[:40]}")
    return int(text)


def _read(reading: Reading) -> Found:
    look_at = (FOLLOWED if reading.is_followed else MAX_LOOKED_AT) if reading.find else 0
    named, count, wanted = reading.line.named, reading.count, _holds(reading.find)
    if reading.start is None:
        return last_messages(named, reading.known, count, look_at=look_at, wanted=wanted)
    return messages_from(named, _starts(reading), count, look_at=look_at, wanted=wanted)


def _starts(reading: Reading) -> dict[int, int]:
    """Return where each partition is read from; without those that have nothing from there on."""
    known = reading.known
    wanted: Mapping[int, int | None]
    if isinstance(reading.start, datetime):
        at_ms = max(0, int(reading.start.timestamp() * 1000))
        wanted = offsets_at(reading.line.named, list(known), at_ms)
    else:
        wanted = dict.fromkeys(known, reading.start)
    return {
        number: max(first, offset)
        for number, (first, end) in known.items()
        if (offset := wanted[number]) is not None and max(first, offset) < end
    }


def _holds(find: str) -> Callable[[Read], bool]:
    """Return whether a message has the text in its key or value, in any case of its letters."""
    folded = find.casefold()

    def holds(read: Read) -> bool:
        return any(folded in _plain(part).casefold() for part in (read.key, read.value))

    return holds if find else bool


def _plain(content: bytes | None) -> str:
    return (content or b"").decode("utf-8", "replace")


def _shown(read: Read, find: str) -> dict[str, Any]:
    at = read.timestamp_ms
    return {
        "partition": read.partition,
        "offset": read.offset,
        "at": None if at is None or at < 0 else utc_at(at / 1000),
        "timestamp_ms": None if at is None or at < 0 else at,
        "key": _text(read.key),
        "value": _text(read.value),
        "excerpt": _excerpt(_plain(read.value), find),
        "headers": [(name, _text(value)) for name, value in read.headers[:SHOWN_HEADERS]],
        "more_headers": max(0, len(read.headers) - SHOWN_HEADERS),
    }


def _excerpt(text: str, find: str) -> str:
    """Return the text around what was searched for, where the beginning does not show it; empty:
    it does, or the text is not in it."""
    at = text.casefold().find(find.casefold()) if find else -1
    if at < 0 or at + len(find) <= EXCERPT:
        return ""
    return f"…{text[at - BEFORE : at - BEFORE + EXCERPT]}…"


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
