"""Lines of progress that a program writes to its descriptor 3. Standard library only: the spawner
imports this."""

from __future__ import annotations

PROGRESS_FD = 3
"""Descriptor to which a program may write lines: ``{"progress": 0.4, "note": "loading"}``."""
PROGRESS_VARIABLE = "DRAKKAR_PROGRESS_FD"
"""Environment variable that names it."""
MAX_LINE_BYTES = 4096
MAX_NOTE_CHARACTERS = 200
MAX_LINES = 64
"""Lines of one reading that are looked at, the last ones: only the last that is valid counts."""


class Progress:
    """What a program told last: ``progress`` from 0 to 1 or None, ``note`` or empty.

    A line changes what it names; ``invalid`` counts the lines that were none of these, longer ones
    than ``MAX_LINE_BYTES`` included.
    """

    __slots__ = ("_is_too_long", "_rest", "invalid", "note", "progress")

    def __init__(self) -> None:
        self.progress: float | None = None
        self.note = ""
        self.invalid = 0
        self._rest = b""
        self._is_too_long = False

    def feed(self, data: bytes) -> bool:
        """Take in what was written; True when something valid was told."""
        first, *others = data.split(b"\n", 1)
        if not others:
            self._hold(data)
            return False
        is_told = self._finish(first)
        lines = others[0].rsplit(b"\n", MAX_LINES + 1)
        for line in lines[-1 - MAX_LINES : -1]:
            is_told |= self._take(line)
        self._hold(lines[-1])
        return is_told

    def _finish(self, end: bytes) -> bool:
        self._hold(end)
        line, is_too_long = self._rest, self._is_too_long
        self._rest, self._is_too_long = b"", False
        if is_too_long:
            self.invalid += 1
            return False
        return self._take(line)

    def _hold(self, part: bytes) -> None:
        if self._is_too_long or len(self._rest) + len(part) > MAX_LINE_BYTES:
            self._rest, self._is_too_long = b"", True
        else:
            self._rest += part

    def _take(self, line: bytes) -> bool:
        if not line.strip():
            return False
        try:
            progress, note = _read(line)
        except (ValueError, TypeError, RecursionError):
            self.invalid += 1
            return False
        self.progress = self.progress if progress is None else progress
        self.note = self.note if note is None else note
        return True


def _read(line: bytes) -> tuple[float | None, str | None]:
    """What a line tells. Raises ValueError, TypeError or RecursionError."""
    import json  # Here: most spawners never need it, and it makes their start longer.

    if len(line) > MAX_LINE_BYTES:
        raise ValueError("too long")
    told = json.loads(line.decode())
    if not isinstance(told, dict):
        raise TypeError("no object")
    progress, note = told.get("progress"), told.get("note")
    # No number is compared as false: NaN is refused.
    if progress is not None and (type(progress) not in (int, float) or not 0 <= progress <= 1):
        raise ValueError("no number from 0 to 1")
    if note is not None and not isinstance(note, str):
        raise TypeError("no text")
    shown = None if note is None else note[:MAX_NOTE_CHARACTERS]
    return None if progress is None else float(progress), shown
