"""The log listener: what an operator wants to read, not every step."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, MutableMapping
from datetime import UTC, datetime
from typing import Any

import structlog

from domain import events
from domain.tracebacks import bounded_traceback
from workers.runtime.listeners.streams import queued

LEFT_OUT = frozenset({"stdout", "stderr", "args"})


def log_listener(min_duration_ms: float) -> events.Tell:
    """Log events; fast successes (below ``min_duration_ms``) and the common path stay silent."""
    log = structlog.get_logger("drakkar")

    def tell(event: events.Event) -> None:
        severity = events.KINDS[event.kind].severity
        if severity is events.Severity.ROUTINE:
            return
        if isinstance(event, events.TaskCompleted) and event.duration_ms < min_duration_ms:
            return
        write = log.warning if severity is events.Severity.WARNING else log.info
        write(event.kind, **_fields(event))

    return tell


def _fields(event: events.Event) -> dict[str, Any]:
    names = events.FIELD_NAMES[event.kind]
    found = {name: getattr(event, name) for name in names if name not in LEFT_OUT}
    return {name: value for name, value in found.items() if value not in (None, "")}


def configure(level: str, format_: str, **bound: str) -> None:
    """Set up structlog for a process: JSON lines or a console, to stderr.

    Nothing logged waits for stderr, or raises because of it
    (``workers.runtime.listeners.streams``).
    """
    stream = queued(sys.stderr, _lost_in_json if format_ == "json" else None)
    renderer: Callable[..., Any] = (
        structlog.processors.JSONRenderer()
        if format_ == "json"
        else structlog.dev.ConsoleRenderer()
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _masked,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level)),
        logger_factory=structlog.WriteLoggerFactory(file=stream),
    )
    structlog.contextvars.bind_contextvars(**bound)


def _masked(_log: Any, _method: str, line: MutableMapping[str, Any]) -> Any:
    """The traceback of an error of ours within bounds and without secrets, as those of handlers."""
    if "exception" in line:
        line["exception"] = bounded_traceback(line["exception"])
    return line


def _lost_in_json(lines: int) -> str:
    at = datetime.now(UTC).isoformat()
    told = {"event": "log_lines_lost", "lines": lines, "level": "warning", "timestamp": at}
    return f"{json.dumps(told)}\n"
