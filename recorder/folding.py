"""One row a message: the events of a message that went as usual, folded into a row and back.

A row of kind ``message`` stands for several events, its *steps*, which all concern one message and
were told within ``SPAN`` of each other:

    ts, duration_ms           time of the latest step; milliseconds since the earliest
    seq                       number of the last step: the steps have the numbers up to it, no gap
    topic, partition, offset  of the message, and so of every step
    data                      [codes, text]: a letter for each step's kind, in order (``STEPS``),
                              and JSON: [shared, [age, value, ...], ...]

``age`` is how long before ``ts`` a step was told, in microseconds; the values are those of the
kind's fields; texts, labels and arguments stand once in ``shared``, the steps name their places.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from math import isfinite
from operator import attrgetter
from typing import Any

import orjson

from domain.events import (
    COLUMNS,
    FIELD_NAMES,
    Committed,
    Delivered,
    Event,
    MessageCompleted,
    MessageEvent,
    PartitionEvent,
    PeriodicRun,
    TaskCompleted,
    TaskStarted,
)
from recorder import models
from recorder.rows import EPOCH, TEXT_LIMITS, Row, microseconds, rounded_ms, to_json

MESSAGE = "message"
"""Kind of a folded row. It is none of an event: readers see its steps (``expand``)."""
SPAN = timedelta(seconds=1)
"""The longest time between the steps of one row."""
MOST_STEPS = 64
MOST_CHARACTERS = 16 * 1024
"""Of the steps as JSON; larger ones keep rows of their own, where each column has its bound."""
MICROSECOND = timedelta(microseconds=1)
STEP_BIT = 47
"""A step's ``id`` is its row's, with the step's number above this bit: below 2^53, as browsers
need."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """How the steps of a kind are written: its fields in order, but for those that are always the
    same (``fixed``).

    Stored rows are read by this order: a new field goes to the end.
    """

    code: str
    kind: str
    fields: tuple[str, ...]
    fixed: Mapping[str, Any] = field(default_factory=dict)


STEPS = (
    Step(code="c", kind="consumed", fields=("timestamp", "size_bytes")),
    Step(
        code="a",
        kind="arranged",
        fields=("task_ids", "labels", "duration_ms", "batch_messages"),
    ),
    Step(
        code="s",
        kind="task_started",
        fields=("task_id", "slot", "queue_ms", "labels", "args", "source_offsets"),
        fixed={"attempt": 1},
    ),
    Step(
        code="e",
        kind="task_completed",
        fields=(
            "task_id", "slot", "exit_code", "pid", "duration_ms", "queue_ms", "labels", "args",
            "stdout_size", "stderr_size", "started_at", "user_cpu_seconds", "system_cpu_seconds",
            "max_rss_bytes",
        ),
        fixed={"attempt": 1, "stdout": None, "stderr": None},
    ),
    Step(code="p", kind="collected", fields=("task_id", "hook", "payloads", "duration_ms")),
    Step(
        code="d",
        kind="delivered",
        fields=("task_id", "sink", "sink_kind", "delivery_id", "duration_ms", "queue_ms"),
        fixed={"attempt": 1},
    ),
    Step(code="m", kind="message_completed", fields=("fate", "duration_ms", "reason")),
)  # fmt: skip
CODES: Mapping[str, str] = {step.kind: step.code for step in STEPS}
"""The letter of each kind that can be a step."""


def is_usual(event: Event, slow_ms: float) -> bool:
    """Whether an event is as it is when all goes well with its message: the first attempt, and
    faster than ``slow_ms``, from which on output is kept."""
    match event:
        case TaskStarted() | Delivered():
            return event.attempt == 1
        case TaskCompleted():
            is_well = event.attempt == 1 and event.exit_code in (0, None)
            return is_well and 0 <= event.duration_ms < slow_ms
        case MessageCompleted():
            return event.fate in ("delivered", "filtered") and not event.reason
    return event.kind in CODES


# -- which events go into one row


@dataclass(slots=True)
class Group:
    """Events that are numbered one after the other. ``is_usual``: of one message, with which all
    went well."""

    events: list[Event]
    is_usual: bool = False


def grouped(events: Iterable[Event], slow_ms: float) -> list[Group]:
    """Put events of one message side by side; those of one that is not usual get no common row.

    The order of a message's events stays, and so does the order of them and what befalls their
    partition or the run. Commits and periodic jobs are told beside all that: their place means
    nothing.
    """
    groups: list[Group] = []
    partitions: dict[tuple[str, int], dict[int, Group]] = {}
    for event in events:
        if not isinstance(event, MessageEvent):
            groups.append(Group([event]))
            if not isinstance(event, Committed | PeriodicRun):
                _close(partitions, event)
            continue
        messages = partitions.setdefault((event.topic, event.partition), {})
        group = messages.get(event.offset)
        if group is None or _is_full(group, event.at):
            group = messages[event.offset] = Group([], is_usual=True)
            groups.append(group)
        group.events.append(event)
        group.is_usual = group.is_usual and is_usual(event, slow_ms)
    return groups


def _is_full(group: Group, at: float) -> bool:
    elapsed = at - group.events[0].at
    return len(group.events) >= MOST_STEPS or not 0 <= elapsed < SPAN.total_seconds()


def _close(partitions: dict[tuple[str, int], dict[int, Group]], event: Event) -> None:
    """Let no message's event told later stand before this one."""
    if isinstance(event, PartitionEvent):
        partitions.pop((event.topic, event.partition), None)
    else:
        partitions.clear()


# -- a group as a row


class Unfoldable(Exception):
    """Events that one row cannot hold; each gets a row of its own."""


def fold(events: Sequence[Event], first_seq: int) -> Row:
    """The row of events of one message (``grouped``). Raises Unfoldable."""
    first = events[0]
    assert isinstance(first, MessageEvent)
    topic, partition, offset = first.topic, first.partition, first.offset
    times = [microseconds(event.at) for event in events]
    latest = max(times)
    writer = _Writer(partition, offset)
    try:
        steps = [
            [latest - at, *writer.values(event, at)]
            for event, at in zip(events, times, strict=True)
        ]
        text = orjson.dumps([writer.shared, *steps]).decode()
    except (TypeError, ValueError, OverflowError, AttributeError) as exc:
        raise Unfoldable(str(exc)) from exc
    if len(text) > MOST_CHARACTERS or "\\u0000" in text or len(topic) > TEXT_LIMITS["topic"]:
        raise Unfoldable(f"{len(text)} characters")
    return {
        "ts": EPOCH + timedelta(microseconds=latest),
        "seq": first_seq + len(events) - 1,
        "kind": MESSAGE,
        "topic": topic,
        "partition": partition,
        "offset": offset,
        "duration_ms": (latest - min(times)) / 1000.0,
        "data": to_json(["".join(CODES[event.kind] for event in events), text]),
    }


def count_of(row: Row) -> int:
    """The number of events that a row stands for."""
    return 1 if row["kind"] != MESSAGE else row["data"].index('"', 2) - 2


def kinds_in(row: Row) -> list[str]:
    """The kinds of the events that a row stands for, in order."""
    if row["kind"] != MESSAGE:
        return [row["kind"]]
    return [_STEP_OF[code].kind for code in orjson.loads(row["data"])[0]]


class _Writer:
    """Writes the values of a message's steps; ``shared`` are those that stand once."""

    def __init__(self, partition: int, offset: int) -> None:
        self.shared: list[Any] = []
        self._places: dict[str | int | None, int] = {}
        self._prefix = f"{partition}:{offset}:"
        self._sources = [offset]
        self._at = 0

    def values(self, event: Event, at: int) -> Iterator[Any]:
        """Those of an event told at ``at`` (microseconds), in the order of its kind's fields."""
        self._at = at
        for write, value in zip(_WRITERS[event.kind], _READ[event.kind](event), strict=True):
            yield value if write is None else write(self, value)

    def text(self, value: str | None) -> int:
        """The place of a text."""
        if value is not None and len(value) > TEXT_LIMITS["sink"]:
            raise ValueError(f"a text of {len(value)} characters")
        return self._place(value, value)

    def task_id(self, value: str | None) -> int:
        """The place of an id without its message's place, where a reader looks for it."""
        if value is not None and not value.startswith(self._prefix):
            raise ValueError(f"task {value} of another message")
        return self.task_name(value)

    def task_name(self, value: str | None) -> int:
        """The place of the id of any task."""
        return self.text(value and value.removeprefix(self._prefix))

    def task_ids(self, value: Sequence[str]) -> list[int]:
        """Their places."""
        return [self.task_name(each) for each in value]

    def labels(self, value: Mapping[str, str]) -> int:
        """In the order in which Postgres gives a JSON object back."""
        return self._place(
            id(value), value if len(value) < 2 else dict(sorted(value.items(), key=_order))
        )

    def args(self, value: Sequence[str]) -> int:
        return self._place(id(value), value)

    def sources(self, value: Sequence[int]) -> Sequence[int] | None:
        """None: the message itself, as of most tasks."""
        return None if list(value) == self._sources else value

    def rounded(self, value: float) -> float:
        """JSON has no number that is none."""
        if not isfinite(value):
            raise ValueError(f"{value} milliseconds")
        return rounded_ms(value)

    def started_at(self, value: float) -> int:
        """How long before the step."""
        return self._at - microseconds(value)

    def _place(self, key: str | int | None, value: Any) -> int:
        place = self._places.get(key)
        if place is None:
            place = self._places[key] = len(self.shared)
            self.shared.append(value)
        return place


def _order(item: tuple[str, Any]) -> tuple[int, bytes]:
    name = item[0].encode()
    return len(name), name


# -- and back


def row_of(event_id: int) -> int:
    """The id of the row that an event stands in."""
    return event_id & (1 << STEP_BIT) - 1


def expand(row: models.Event) -> list[models.Event]:
    """The events that a stored row stands for, in order; most rows are one event themselves.

    A row that cannot be read (a later release wrote it) stands for itself.
    """
    if row.kind != MESSAGE:
        return [row]
    try:
        codes, text = row.data  # type: ignore[misc]
        shared, *steps = orjson.loads(text)
        reader = _Reader(row, shared, row.seq - len(codes) + 1)
        return [
            reader.event(number, _STEP_OF[code], age, values)
            for number, (code, (age, *values)) in enumerate(zip(codes, steps, strict=True))
        ]
    except (KeyError, IndexError, TypeError, ValueError, OverflowError):
        return [row]


class _Reader:
    """Reads the steps of one row; each method takes what the one of ``_Writer`` made."""

    def __init__(self, row: models.Event, shared: Sequence[Any], first_seq: int) -> None:
        self._row = row
        self._shared = shared
        self._first_seq = first_seq
        self._prefix = f"{row.partition}:{row.offset}:"
        self._at = 0

    def event(self, number: int, step: Step, age: int, values: Sequence[Any]) -> models.Event:
        """A step as the row that it would have had."""
        row, ts = self._row, self._row.ts - timedelta(microseconds=age)
        self._at = (ts - EPOCH) // MICROSECOND
        found = dict(step.fixed)
        for name, read, value in zip(step.fields, _READERS[step.kind], values, strict=True):
            found[name] = value if read is None else read(self, value)
        data = {name: found.pop(name) for name in _DATA[step.kind]}
        return models.Event(
            id=row.id + (number << STEP_BIT),
            ts=ts,
            run=row.run,
            seq=self._first_seq + number,
            kind=step.kind,
            topic=row.topic,
            partition=row.partition,
            offset=row.offset,
            data=data,
            **found,
        )

    def shared(self, place: int) -> Any:
        return self._shared[place]

    def task_id(self, place: int) -> str | None:
        """An id that begins as its message's do has one colon less each."""
        text: str | None = self._shared[place]
        return text if text is None or ":" in text else self._prefix + text

    def task_ids(self, places: Sequence[int]) -> list[str | None]:
        return [self.task_id(place) for place in places]

    def sources(self, value: list[int] | None) -> list[int]:
        return [self._row.offset or 0] if value is None else value

    def started_at(self, age: int) -> float:
        return (self._at - age) / 1e6


@dataclass(frozen=True, slots=True)
class _Coding:
    """How the values of a field are written and read."""

    write: Callable[[_Writer, Any], Any]
    read: Callable[[_Reader, Any], Any] | None


_TEXT = _Coding(_Writer.text, _Reader.shared)
_CODINGS: Mapping[str, _Coding] = {
    "task_id": _Coding(_Writer.task_id, _Reader.task_id),
    "task_ids": _Coding(_Writer.task_ids, _Reader.task_ids),
    "labels": _Coding(_Writer.labels, _Reader.shared),
    "args": _Coding(_Writer.args, _Reader.shared),
    "source_offsets": _Coding(_Writer.sources, _Reader.sources),
    "duration_ms": _Coding(_Writer.rounded, None),
    "queue_ms": _Coding(_Writer.rounded, None),
    "started_at": _Coding(_Writer.started_at, _Reader.started_at),
    **dict.fromkeys(("sink", "sink_kind", "delivery_id", "hook", "fate", "reason"), _TEXT),
}
"""Of the fields that do not stand as they are."""
_STEP_OF = {step.code: step for step in STEPS}
_READ = {step.kind: attrgetter(*step.fields) for step in STEPS}
_WRITERS = {
    step.kind: [coding.write if coding else None for coding in map(_CODINGS.get, step.fields)]
    for step in STEPS
}
_READERS = {
    step.kind: [coding.read if coding else None for coding in map(_CODINGS.get, step.fields)]
    for step in STEPS
}
_DATA = {
    step.kind: sorted(set(FIELD_NAMES[step.kind]) - set(COLUMNS), key=lambda n: (len(n), n))
    for step in STEPS
}
"""The fields of each kind that are no columns, in the order of JSON in Postgres."""
