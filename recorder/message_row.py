"""One row a message: events of one message as a row, and back.

A row of kind ``message`` stands for several events, its *steps*, which all concern one message and
were told within ``SPAN`` of each other:

    ts, duration_ms           time of the latest step; milliseconds since the earliest
    seq                       number of the last step: the steps have the numbers up to it, no gap
    topic, partition, offset  of the message, and so of every step
    data                      ``kinds``: a letter for each step's kind, in order (``STEPS``);
                              ``steps``: JSON text: [shared, [age, value, ...], ...]

``age`` is how long before ``ts`` a step was told, in microseconds; the values are those of the
kind's fields, some of them in a shorter form (``_CODINGS``). Texts, labels and arguments stand once
in ``shared``, or in ``WORDS``; the steps name their places.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import chain
from math import isfinite
from operator import attrgetter
from typing import Any

import orjson

from domain.events import COLUMNS, KINDS, Event, MessageEvent
from recorder import models
from recorder.rows import EPOCH, TEXT_LIMITS, Row, microseconds, rounded_ms, to_json

MESSAGE = "message"
"""Kind of such a row. It is none of an event: readers see its steps (``expand``)."""
SPAN = timedelta(seconds=3)
"""Longest time between the steps of one row."""
_DATA_BEGINS = '{"kinds":"'
MOST_STEPS = 64
MOST_CHARACTERS = 16 * 1024
"""Of the steps as JSON; larger ones keep rows of their own, where each column has its bound."""
MICROSECOND = timedelta(microseconds=1)
STEP_BIT = 47
"""A step's ``id`` is its row's, with the step's number above this bit: below 2^53, as browsers
need."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Form of the steps of a kind: its fields in order, but for those that are always the
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
        fixed={"attempt": 1, "stdout": None, "stderr": None, "progress": None},
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
"""Letter of each kind that can be a step."""
WORDS = ("", "delivered", "filtered", "collect", "kafka")
"""Texts that nearly every message has. Stored rows name their places: a new one goes to the end."""


class Unfoldable(Exception):
    """Events that one row cannot hold; each gets a row of its own."""


def fold(events: Sequence[Event], first_seq: int) -> Row:
    """Return the row of events of one message (``recorder.folding``). Raises Unfoldable."""
    first = events[0]
    assert isinstance(first, MessageEvent)
    times = [microseconds(event.at) for event in events]
    latest = max(times)
    message = _Message(first.topic, first.partition, first.offset)
    try:
        steps = [
            [latest - at, *_written(message, event, at)]
            for event, at in zip(events, times, strict=True)
        ]
        text = orjson.dumps([message.shared, *steps]).decode()
    except (TypeError, ValueError, OverflowError, AttributeError) as exc:
        raise Unfoldable(str(exc)) from exc
    if len(text) > MOST_CHARACTERS or "\\u0000" in text:
        raise Unfoldable(f"{len(text)} characters")
    return {
        "ts": EPOCH + timedelta(microseconds=latest),
        "seq": first_seq + len(events) - 1,
        "kind": MESSAGE,
        "topic": first.topic,
        "partition": first.partition,
        "offset": first.offset,
        "duration_ms": (latest - min(times)) / 1000.0,
        "data": to_json({"kinds": "".join([CODES[e.kind] for e in events]), "steps": text}),
    }


def _written(message: _Message, event: Event, at: int) -> list[Any]:
    message.at = at
    values = list(_READ[event.kind](event))
    for place, coding in _CODED[event.kind]:
        values[place] = coding.write(message, values[place])
    return values


def count_of(row: Row) -> int:
    """Return the number of events that a row stands for."""
    return len(_codes_in(row)) if row["kind"] == MESSAGE else 1


def kinds_in(row: Row) -> list[str]:
    """Return the kinds of the events that a row stands for, in order."""
    if row["kind"] != MESSAGE:
        return [row["kind"]]
    return [_STEP_OF[code].kind for code in _codes_in(row)]


def _codes_in(row: Row) -> str:
    text: str = row["data"]
    return text[len(_DATA_BEGINS) : text.index('"', len(_DATA_BEGINS))]


def expand(row: models.Event) -> list[models.Event]:
    """Return the events that a stored row stands for, in order; most rows are one event themselves.

    A row that cannot be read (a later release wrote it) stands for itself.
    """
    if row.kind != MESSAGE:
        return [row]
    try:
        codes, text = row.data["kinds"], row.data["steps"]  # type: ignore[index]
        shared, *steps = orjson.loads(text)
        message = _Message(row.topic, row.partition, row.offset, shared)
        first_seq = row.seq - len(codes) + 1
        return [
            _expanded(row, message, _STEP_OF[code], number, first_seq + number, values)
            for number, (code, values) in enumerate(zip(codes, steps, strict=True))
        ]
    except (KeyError, IndexError, TypeError, ValueError, OverflowError):
        return [row]


def _expanded(
    row: models.Event, message: _Message, step: Step, number: int, seq: int, written: list[Any]
) -> models.Event:
    age, *values = written
    ts = row.ts - timedelta(microseconds=age)
    message.at = (ts - EPOCH) // MICROSECOND
    for place, coding in _CODED[step.kind]:
        values[place] = coding.read(message, values[place])
    told = dict(step.fixed)
    told.update(zip(step.fields, values, strict=True))
    data = {name: told[name] for name in _DATA[step.kind]}
    columns: list[Any] = [
        row.id + (number << STEP_BIT), ts, row.run, seq, step.kind, row.topic, row.partition,
        row.offset, *map(told.get, _COLUMNS), data,
    ]  # fmt: skip
    return models.Event.from_db(row._state.db, _FIELDS, columns)


def row_of(event_id: int) -> int:
    """Return the id of the row that an event stands in."""
    return event_id & (1 << STEP_BIT) - 1


# -- values that do not stand as they are


class _Message:
    """Message of a row while its steps are written or read; ``at`` is the step's time."""

    def __init__(
        self, topic: str | None, partition: int | None, offset: int | None,
        shared: list[Any] | None = None,
    ) -> None:  # fmt: skip
        if topic is None or partition is None or offset is None:
            raise ValueError("not a place of a message")
        if len(topic) > TEXT_LIMITS["topic"]:
            raise Unfoldable(f"a topic of {len(topic)} characters")
        self.offset = offset
        self.task_prefix = f"{partition}:{offset}:"
        self.place = f"/{topic}/{partition}/{offset}/"
        self.shared = [] if shared is None else shared
        self.at = 0
        self._places = _WORD_PLACES.copy()

    def put(self, value: Any, key: str | int | None) -> int:
        """Return the place of a value, which is told from others by its key."""
        place = self._places.get(key)
        if place is None:
            place = self._places[key] = len(self.shared)
            self.shared.append(value)
        return place

    def get(self, place: int) -> Any:
        """Return the value at a place."""
        return WORDS[~place] if place < 0 else self.shared[place]


def _put_text(message: _Message, value: str | None) -> int:
    if value is not None and len(value) > TEXT_LIMITS["sink"]:
        raise ValueError(f"a text of {len(value)} characters")
    return message.put(value, value)


def _put_object(message: _Message, value: Any) -> int:
    return message.put(value, id(value))


def _put_labels(message: _Message, value: Mapping[str, str]) -> int:
    """In the order in which Postgres gives a JSON object back."""
    ordered = value if len(value) < 2 else dict(sorted(value.items(), key=_json_order))
    return message.put(ordered, id(value))


def _json_order(item: tuple[str, Any]) -> tuple[int, bytes]:
    name = item[0].encode()
    return len(name), name


def _get(message: _Message, place: int) -> Any:
    return message.get(place)


def _put_task(message: _Message, value: str) -> int:
    """A task's id, without the place of the message if that is what it is named after."""
    name = value.removeprefix(message.task_prefix)
    if (":" in name) != (name == value):
        raise ValueError(f"not a task's id: {value[:80]}")
    return _put_text(message, name)


def _put_own_task(message: _Message, value: str | None) -> int:
    """As ``_put_task``, of a task named after the message: readers look for it there."""
    if value is None:
        return message.put(None, None)
    if not value.startswith(message.task_prefix):
        raise ValueError(f"a task of another message: {value[:80]}")
    return _put_task(message, value)


def _get_task(message: _Message, place: int) -> str | None:
    name: str | None = message.get(place)
    return name if name is None or ":" in name else message.task_prefix + name


def _put_tasks(message: _Message, value: Sequence[str]) -> list[int]:
    return [_put_task(message, each) for each in value]


def _get_tasks(message: _Message, places: Sequence[int]) -> list[str | None]:
    return [_get_task(message, place) for place in places]


def _put_delivery(message: _Message, value: str) -> int:
    """A delivery's id, with a tab for the place of the message."""
    if "\t" in value:
        raise ValueError(f"a tab in a delivery's id: {value[:80]}")
    return _put_text(message, value.replace(message.place, "\t", 1))


def _get_delivery(message: _Message, place: int) -> str:
    text: str = message.get(place)
    return text.replace("\t", message.place, 1)


def _put_sources(message: _Message, value: Sequence[int]) -> list[int] | int:
    """0: the message alone, as with most tasks."""
    sources = list(value)
    return 0 if sources == [message.offset] else sources


def _get_sources(message: _Message, value: list[int] | int) -> list[int]:
    return [message.offset] if value == 0 else value  # type: ignore[return-value]


def _put_ms(message: _Message, value: float) -> float:
    """JSON has no number for infinity and none."""
    if not isfinite(value):
        raise ValueError(f"{value} milliseconds")
    return rounded_ms(value)


def _get_ms(message: _Message, value: float) -> float:
    return value


def _put_started(message: _Message, value: float) -> int:
    """Return how long before the step it was, in microseconds."""
    return message.at - microseconds(value)


def _get_started(message: _Message, age: int) -> float:
    return (message.at - age) / 1e6


@dataclass(frozen=True, slots=True)
class _Coding:
    """Writer and reader of the values of a field."""

    write: Callable[[_Message, Any], Any]
    read: Callable[[_Message, Any], Any]


_CODINGS: Mapping[str, _Coding] = {
    "task_id": _Coding(_put_own_task, _get_task),
    "task_ids": _Coding(_put_tasks, _get_tasks),
    "delivery_id": _Coding(_put_delivery, _get_delivery),
    "source_offsets": _Coding(_put_sources, _get_sources),
    "labels": _Coding(_put_labels, _get),
    "args": _Coding(_put_object, _get),
    "duration_ms": _Coding(_put_ms, _get_ms),
    "queue_ms": _Coding(_put_ms, _get_ms),
    "started_at": _Coding(_put_started, _get_started),
    **dict.fromkeys(("sink", "sink_kind", "hook", "fate", "reason"), _Coding(_put_text, _get)),
}
_CODED = {
    step.kind: [(n, _CODINGS[name]) for n, name in enumerate(step.fields) if name in _CODINGS]
    for step in STEPS
}
_WORD_PLACES: dict[str | int | None, int] = {word: ~number for number, word in enumerate(WORDS)}
_STEP_OF = {step.code: step for step in STEPS}
_READ = {step.kind: attrgetter(*step.fields) for step in STEPS}
_DATA = {
    step.kind: sorted(KINDS[step.kind].data, key=lambda name: (len(name), name)) for step in STEPS
}
"""Fields of each kind that are no columns, in the order of JSON in Postgres."""
OF_EVERY_ROW = " ".join([*WORDS, *sorted(set(chain(*_DATA.values()))), "true false null"]).upper()
"""Words, in capitals, of texts that steps have and their rows need not hold."""
_FIELDS = [field.attname for field in models.Event._meta.concrete_fields]
_COLUMNS = tuple(name for name in COLUMNS if name not in ("topic", "partition", "offset"))
"""Columns of an event between ``offset`` and ``data``, in the order of the model."""
