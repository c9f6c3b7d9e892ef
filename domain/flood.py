"""When dead letters are so many that the messages are hardly at fault."""

from __future__ import annotations

from collections import deque

MOST_IN_A_ROW = 50
WINDOW = 200
MOST_SHARE = 0.5


class FloodWatch:
    """Counts the fates of one partition of one epoch."""

    __slots__ = ("_dead", "_in_a_row", "_last")

    def __init__(self) -> None:
        self._last: deque[bool] = deque(maxlen=WINDOW)
        self._dead = 0
        self._in_a_row = 0

    def add(self, is_dead: bool) -> str | None:
        """Take in a fate; what makes it a flood, or None. After a flood it counts anew."""
        if not (is_dead or self._dead):
            self._last.append(False)
            self._in_a_row = 0
            return None
        if len(self._last) == WINDOW:
            self._dead -= self._last[0]
        self._last.append(is_dead)
        self._dead += is_dead
        self._in_a_row = self._in_a_row + 1 if is_dead else 0
        detail = self._detail()
        if detail is not None:
            self._last.clear()
            self._dead = self._in_a_row = 0
        return detail

    @property
    def room(self) -> int:
        """Dead letters in a row that make it a flood, the last one counted; at least 1."""
        share = int(WINDOW * MOST_SHARE) + 1 - self._dead
        return min(MOST_IN_A_ROW - self._in_a_row, max(WINDOW - len(self._last), share))

    def _detail(self) -> str | None:
        if self._in_a_row >= MOST_IN_A_ROW:
            return f"{self._in_a_row} messages in a row were dead-lettered"
        if len(self._last) == WINDOW and self._dead > WINDOW * MOST_SHARE:
            return f"{self._dead} of the last {WINDOW} messages were dead-lettered"
        return None
