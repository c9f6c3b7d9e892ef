"""Events as rows of the table: cleaned, cut to size, with output only where it is wanted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from functools import cache
from operator import attrgetter
from typing import Any

import orjson

from domain.events import COLUMNS, FIELD_NAMES, DeadLettered, Event, TaskCompleted
from recorder.config import RecorderConfig

Row = dict[str, Any]
"""A row by column name, as COPY takes it: ``labels``, ``args`` and ``data`` are JSON text.
``content`` (domain.events.CARRIED) is no column: it is for a projection, and plain for the
spool."""

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
TEXT_LIMITS = {"topic": 249, "task_id": 255, "sink": 255}
JSON_COLUMNS = frozenset({"labels", "args", "data"})
OUTPUT_COLUMNS = frozenset({"stdout", "stderr"})
ROW_BYTES = 200
"""What a row weighs besides its texts and output."""

_NUL_IN_JSON = b"\\u0000"


def clean(value: Any) -> Any:
    """The value without NUL and lone surrogates, which Postgres refuses; each is marked instead.
    Integers beyond 64 bits are text."""
    if isinstance(value, str):
        if "\x00" in value:
            value = value.replace("\x00", REPLACEMENT)
        return value.encode("utf-8", "replace").decode() if not value.isascii() else value
    if isinstance(value, dict):
        return {clean(str(name)): clean(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [clean(item) for item in value]
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return str(value)
    if isinstance(value, (bytes, bytearray)):
        return bytes(value).decode("utf-8", "replace").replace("\x00", REPLACEMENT)
    return value


def to_json(value: Any) -> str:
    """The value as JSON text that Postgres takes; cleaned only where that is needed."""
    try:
        text = orjson.dumps(value)
    except TypeError:  # A lone surrogate, bytes, or keys and types that JSON does not have.
        text = b""
    if not text or _NUL_IN_JSON in text:
        options = orjson.OPT_NON_STR_KEYS
        text = orjson.dumps(clean(_plain(value)), default=str, option=options)
    return text.decode()


def _plain(value: Any) -> Any:
    return dict(value) if hasattr(value, "keys") else value


def to_row(event: Event, seq: int, config: RecorderConfig) -> Row:
    """The row of an event; fast successes lose their output, never its size."""
    names, values, data_names, data_values = _plan(event.kind)
    row: Row = {"ts": datetime.fromtimestamp(event.at, UTC), "seq": seq, "kind": event.kind}
    keeps_output = not (
        isinstance(event, TaskCompleted) and event.duration_ms < config.output_min_duration_ms
    )
    for name, value in zip(names, values(event), strict=True):
        if value is None:
            continue
        if name in TEXT_LIMITS:
            value = value if value.isascii() and "\x00" not in value else clean(value)
            value = value[: TEXT_LIMITS[name]]
        elif name in JSON_COLUMNS:
            value = to_json(value)
        elif name in OUTPUT_COLUMNS:
            value = bytes(value[: config.output_max_bytes]) if keeps_output else None
        row[name] = value
    if data_names:
        row["data"] = to_json(dict(zip(data_names, data_values(event), strict=True)))
    if isinstance(event, DeadLettered):
        row["content"] = asdict(event.content)
    return row


@cache
def _plan(
    kind: str,
) -> tuple[
    tuple[str, ...],
    Callable[[Event], tuple[Any, ...]],
    tuple[str, ...],
    Callable[[Event], tuple[Any, ...]],
]:
    """Which fields of a kind are columns and which are ``data``, and how to read them."""
    columns = tuple(name for name in FIELD_NAMES[kind] if name in COLUMNS)
    data = tuple(name for name in FIELD_NAMES[kind] if name not in COLUMNS)
    return columns, _getter(columns), data, _getter(data)


def _getter(names: tuple[str, ...]) -> Callable[[Event], tuple[Any, ...]]:
    if not names:
        return lambda event: ()
    read = attrgetter(*names)
    return read if len(names) > 1 else lambda event: (read(event),)


def size_bytes(row: Row) -> int:
    """What a row weighs in the buffer, roughly."""
    size = ROW_BYTES
    for name in ("stdout", "stderr", "labels", "args", "data"):
        size += len(row.get(name) or "")
    if "content" in row:
        size += row["content"]["size_bytes"]
    return size
