"""The worker's log: a line an event, with its fields by name, as JSON or as text."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from domain.tracebacks import bounded_traceback

Line = Mapping[str, Any]


def as_json(line: Line) -> str:
    """Return the line as one JSON object; what JSON does not know stands as its ``repr``."""
    return json.dumps(line, default=repr)


def as_text(line: Line) -> str:
    """Return the line for a person's eyes, a traceback below it."""
    rest = dict(line)
    begin = f"{rest.pop('timestamp')} [{rest.pop('level'):<7}] {rest.pop('event'):<24}"
    below = rest.pop("exception", "")
    fields = [f"{name}={value!r}" for name, value in rest.items()]
    return "\n".join(filter(None, (" ".join([begin, *fields]).rstrip(), below)))


def to_stderr(line: Line) -> None:
    """Write text to stderr: the log of a process that configured none."""
    sys.stderr.write(f"{as_text(line)}\n")


class Log:
    """Takes lines; ``configure`` says where they go and how loud one has to be."""

    def __init__(self) -> None:
        self.write: Callable[[Line], None] = to_stderr
        self._least = logging.DEBUG
        self._bound: dict[str, str] = {}

    def configure(self, write: Callable[[Line], None], level: str, **bound: str) -> None:
        """Give lines from ``level`` on to ``write``, each with the ``bound`` fields."""
        self.write, self._least, self._bound = write, logging.getLevelNamesMapping()[level], bound

    def info(self, event: str, **fields: Any) -> None:
        """Log what goes its way."""
        self._log(logging.INFO, "info", event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        """Log what an operator may have to look at."""
        self._log(logging.WARNING, "warning", event, fields)

    def error(self, event: str, **fields: Any) -> None:
        """Log what is broken; ``exc_info`` is the exception whose traceback is wanted."""
        self._log(logging.ERROR, "error", event, fields)

    def _log(self, number: int, level: str, event: str, fields: dict[str, Any]) -> None:
        if number < self._least:
            return
        error: BaseException | None = fields.pop("exc_info", None)
        now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        line = {**self._bound, **fields, "event": event, "level": level, "timestamp": now}
        if error is not None:
            text = "".join(traceback.format_exception(error)).rstrip()
            line["exception"] = bounded_traceback(text)
        self.write(line)


log = Log()
"""The log of this process."""
