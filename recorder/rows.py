"""Events as rows of the table: cleaned, cut to size, with output only where it is wanted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from math import isfinite, modf
from operator import attrgetter
from typing import Any

import orjson

from domain.events import KINDS, DeadLettered, Event, RecorderShed, Sampled, TaskCompleted
from domain.text_bounds import MAX_REASON, shortened
from recorder.config import RecorderConfig

Row = dict[str, Any]
"""A row by column name, as COPY takes it: ``labels``, ``args`` and ``data`` are JSON text.
It may carry plain values besides, for projections (``recorder.projections.Carried``)."""

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
TEXT_LIMITS = {"topic": 249, "task_id": 255, "sink": 255}
JSON_COLUMNS = frozenset({"labels", "args", "data"})
MOST_JSON = {"labels": 32 * 1024, "args": 32 * 1024, "data": 256 * 1024}
"""Characters of a column's JSON: what a handler or a topic makes longer is cut."""
EMPTY = {"labels": "{}", "args": "[]", "data": "{}"}
OUTPUT_COLUMNS = frozenset({"stdout", "stderr"})
LONGEST_BITS = 10_000
"""Of an integer that is written as text; Python writes none of more than 4,300 digits."""
ROW_BYTES = 600
"""Bytes of a row in memory besides its texts and output (measured)."""
OBSERVATION_BYTES, CELL_BYTES = 200, 800
"""Of what a row carries for the rollups (measured)."""

_NUL_IN_JSON = "\\u0000"


def clean(value: Any) -> Any:
    """Return the value without NUL and lone surrogates, which Postgres refuses; each is marked
    instead. Integers beyond 64 bits are text, NaN and Infinity are unknown."""
    if isinstance(value, str):
        if "\x00" in value:
            value = value.replace("\x00", REPLACEMENT)
        return value.encode("utf-8", "replace").decode() if not value.isascii() else value
    if isinstance(value, dict):
        return {clean(str(name)): clean(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [clean(item) for item in value]
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return str(value) if value.bit_length() <= LONGEST_BITS else "(a number without end)"
    if isinstance(value, float) and not isfinite(value):
        return None
    if isinstance(value, (bytes, bytearray)):
        return bytes(value).decode("utf-8", "replace").replace("\x00", REPLACEMENT)
    return value


def to_json(value: Any) -> str:
    """Return the value as JSON text that Postgres takes; cleaned only where that is needed."""
    try:
        text = orjson.dumps(value).decode()
    except TypeError:  # A lone surrogate, bytes, or keys and types that JSON does not have.
        text = ""
    if not text or _NUL_IN_JSON in text:
        options = orjson.OPT_NON_STR_KEYS
        text = orjson.dumps(clean(_plain(value)), default=str, option=options).decode()
    return text


def _plain(value: Any) -> Any:
    return dict(value) if hasattr(value, "keys") else value


def bounded(text: str, most: int, give_up: str) -> str:
    """JSON text of a column, or the same with its texts and then its lists cut where it is longer
    than ``most``; ``give_up`` where that is not enough."""
    for most_text, most_items in ((MAX_REASON, 10_000), (200, 100)):
        if len(text) <= most:
            return text
        text = to_json(_cut(orjson.loads(text), most_text, most_items))
    return text if len(text) <= most else give_up


def _cut(value: Any, most_text: int, most_items: int) -> Any:
    if isinstance(value, str):
        return shortened(value, most_text)
    if isinstance(value, list):
        kept = [_cut(item, most_text, most_items) for item in value[:most_items]]
        more = len(value) - most_items
        return kept if more <= 0 else [*kept, f"... and {more:,} more"]
    if isinstance(value, dict):
        kept_names = list(value)[:most_items]
        return {name[:most_text]: _cut(value[name], most_text, most_items) for name in kept_names}
    return value


EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def microseconds(at: float) -> int:
    """UTC epoch seconds as whole microseconds, rounded as Python's datetime rounds."""
    fraction, whole = modf(at)
    return int(whole) * 1_000_000 + round(fraction * 1e6)


def rounded_ms(value: float) -> float:
    """Milliseconds as they are stored: to the microsecond."""
    return round(value, 3)


def to_row(event: Event, seq: int, config: RecorderConfig) -> Row:
    """Return the row of an event; fast successes lose their output, never its size."""
    plan = plan_of(event.kind)
    row: Row = dict(zip(plan.columns, plan.read(event)))  # noqa: B905 - read by these names
    row["ts"], row["seq"], row["kind"] = datetime.fromtimestamp(event.at, UTC), seq, event.kind
    for name in plan.rounded:
        if row[name] is not None:
            row[name] = rounded_ms(row[name])
    for name, limit in plan.texts:
        row[name] = _text(row[name], limit)
    for name in plan.jsons:
        row[name] = to_json(row[name])
        if len(row[name]) > MOST_JSON[name]:
            row[name] = bounded(row[name], MOST_JSON[name], EMPTY[name])
    for name in plan.outputs:
        row[name] = _output(event, row[name], config)
    if plan.data:
        told = dict(zip(plan.data, plan.read_data(event)))  # noqa: B905
        if told.get("started_at") is not None:
            told["started_at"] = round(told["started_at"], 6)
        row["data"] = to_json(told)
        if len(row["data"]) > MOST_JSON["data"]:
            row["data"] = bounded(row["data"], MOST_JSON["data"], EMPTY["data"])
    if isinstance(event, DeadLettered):
        row["content"] = asdict(event.content)
    if isinstance(event, RecorderShed | Sampled) and event.sums:
        row["sums"] = event.sums
    if isinstance(event, RecorderShed) and event.groups:
        row["failure_groups"] = event.groups
    return row


def _text(value: str | None, limit: int) -> str | None:
    if value is None:
        return None
    return (value if value.isascii() and "\x00" not in value else clean(value))[:limit]


def _output(event: Event, value: bytes | None, config: RecorderConfig) -> bytes | None:
    if value is None:
        return None
    if isinstance(event, TaskCompleted) and event.duration_ms < config.output_min_duration_ms:
        return None
    return bytes(value[: config.output_max_bytes])


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Reading of a kind: which fields are columns and which are ``data``, how both are read, and
    which columns need more than that; found once, not for each event."""

    columns: tuple[str, ...]
    read: Callable[[Event], tuple[Any, ...]]
    data: tuple[str, ...]
    read_data: Callable[[Event], tuple[Any, ...]]
    texts: tuple[tuple[str, int], ...]
    rounded: tuple[str, ...]
    jsons: tuple[str, ...]
    outputs: tuple[str, ...]


@cache
def plan_of(kind: str) -> Plan:
    """Return the plan of a kind."""
    columns, data = KINDS[kind].columns, KINDS[kind].data
    return Plan(
        columns=columns,
        read=_getter(columns),
        data=data,
        read_data=_getter(data),
        texts=tuple((name, TEXT_LIMITS[name]) for name in columns if name in TEXT_LIMITS),
        rounded=tuple(name for name in columns if name in ("duration_ms", "queue_ms")),
        jsons=tuple(name for name in columns if name in JSON_COLUMNS),
        outputs=tuple(name for name in columns if name in OUTPUT_COLUMNS),
    )


def _getter(names: tuple[str, ...]) -> Callable[[Event], tuple[Any, ...]]:
    if not names:
        return lambda event: ()
    read = attrgetter(*names)
    return read if len(names) > 1 else lambda event: (read(event),)


def size_bytes(row: Row) -> int:
    """Return the bytes of a row in the buffer, roughly."""
    size = ROW_BYTES
    for name in ("stdout", "stderr", "labels", "args", "data"):
        if value := row.get(name):
            size += len(value)
    if "content" in row:
        size += row["content"]["size_bytes"]
    size += OBSERVATION_BYTES * len(row.get("tally", ())) + CELL_BYTES * len(row.get("sums", ()))
    return size
