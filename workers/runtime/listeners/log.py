"""The log listener: what an operator wants to read, not every step."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from typing import Any, TextIO

from domain import events
from workers.log import as_json, as_text, log
from workers.runtime.listeners.streams import queued

LEFT_OUT = frozenset({"stdout", "stderr", "args"})


def log_listener(min_duration_ms: float) -> events.Tell:
    """Log events; fast successes (below ``min_duration_ms``) and the common path stay silent."""
    kinds = events.KINDS.values()
    routine = {kind.name for kind in kinds if kind.severity is events.Severity.ROUTINE}
    warnings = {kind.name for kind in kinds if kind.severity is events.Severity.WARNING}

    def tell(event: events.Event) -> None:
        if event.kind in routine:
            return
        if isinstance(event, events.TaskCompleted) and event.duration_ms < min_duration_ms:
            return
        write = log.warning if event.kind in warnings else log.info
        write(event.kind, **_fields(event))

    return tell


def _fields(event: events.Event) -> dict[str, Any]:
    kind = events.KINDS[event.kind]
    names = (*kind.columns, *kind.data)
    found = {name: getattr(event, name) for name in names if name not in LEFT_OUT}
    return {name: value for name, value in found.items() if value not in (None, "")}


def configure(level: str, format_: str, **bound: str) -> None:
    """Have the process log JSON lines or text to stderr, each line with the ``bound`` fields.

    Nothing logged waits for stderr, or raises because of it
    (``workers.runtime.listeners.streams``).
    """
    shown = as_json if format_ == "json" else as_text
    stream = queued(sys.stderr, _lost_in_json if format_ == "json" else None)
    log.configure(lambda line: _written(stream, shown(line)), level, **bound)


def _written(stream: TextIO, text: str) -> None:
    stream.write(f"{text}\n")


def _lost_in_json(lines: int) -> str:
    at = datetime.now(UTC).isoformat()
    told = {"event": "log_lines_lost", "lines": lines, "level": "warning", "timestamp": at}
    return f"{json.dumps(told)}\n"
