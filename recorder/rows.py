"""Events as rows of the table: cleaned, cut to size, with output only where it is wanted."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import orjson

from domain.events import Event, TaskCompleted
from recorder.config import RecorderConfig

Row = dict[str, Any]

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
TEXT_LIMITS = {"topic": 249, "task_id": 255, "sink": 255}


def clean(value: Any) -> Any:
    """The value without NUL and lone surrogates, which Postgres refuses; each is marked instead."""
    if isinstance(value, str):
        if "\x00" in value:
            value = value.replace("\x00", REPLACEMENT)
        return value.encode("utf-8", "replace").decode() if not value.isascii() else value
    if isinstance(value, dict):
        return {clean(str(name)): clean(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [clean(item) for item in value]
    if isinstance(value, (bytes, bytearray)):
        return bytes(value).decode("utf-8", "replace").replace("\x00", REPLACEMENT)
    return value


def to_row(event: Event, seq: int, config: RecorderConfig) -> Row:
    """The row of an event; fast successes lose their output, never its size."""
    row = event.columns()
    if isinstance(event, TaskCompleted) and event.duration_ms < config.output_min_duration_ms:
        row["stdout"] = row["stderr"] = None
    for name in ("stdout", "stderr"):
        if row.get(name) is not None:
            row[name] = bytes(row[name][: config.output_max_bytes])
    for name, limit in TEXT_LIMITS.items():
        if row.get(name):
            row[name] = clean(row[name])[:limit]
    for name in ("labels", "args", "data"):
        if row.get(name) is not None:
            row[name] = clean(row[name] if name == "args" else dict(row[name]))
    return {"ts": datetime.fromtimestamp(event.at, UTC), "seq": seq, "kind": event.kind, **row}


def size_bytes(row: Row) -> int:
    """What a row weighs in the buffer, roughly."""
    size = 200
    for name in ("stdout", "stderr"):
        size += len(row.get(name) or b"")
    for name in ("labels", "args", "data"):
        if row.get(name) is not None:
            size += len(orjson.dumps(row[name], default=str))
    return size
