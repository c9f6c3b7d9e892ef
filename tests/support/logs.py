"""What is logged, kept for a test to look at."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from workers.log import Line, log, to_stderr


@contextmanager
def captured_logs() -> Iterator[list[Line]]:
    """The lines that are logged inside the block, none of which reaches the log."""
    lines: list[Line] = []
    log.configure(lines.append, "DEBUG")
    try:
        yield lines
    finally:
        log.configure(to_stderr, "DEBUG")
