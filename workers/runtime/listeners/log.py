"""Log listener: what an operator wants to read, not every step."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from typing import Any, TextIO

from domain import events
from workers.log import as_json, as_text, log
from workers.runtime.listeners.streams import queued

LEFT_OUT = frozenset({"stdout", "stderr", "args"})


class LogListener:
    """Logs events; fast successes (below ``min_duration_ms``) and the common path stay silent."""

    def __init__(self, min_duration_ms: float) -> None:
        self._min_duration_ms = min_duration_ms

    def listener_of(self, kind: str) -> events.Tell | None:
        """Return itself, but None for the common path."""
        return None if events.KINDS[kind].severity is events.Severity.ROUTINE else self

    def __call__(self, event: events.Event) -> None:
        """Log an event that is to be logged."""
        if self.listener_of(event.kind) is None:
            return
        if isinstance(event, events.TaskCompleted) and event.duration_ms < self._min_duration_ms:
            return
        is_warning = events.KINDS[event.kind].severity is events.Severity.WARNING
        (log.warning if is_warning else log.info)(event.kind, **_fields(event))


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
