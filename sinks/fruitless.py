"""When a connection that answers is of no use: nothing stored through it for too long."""

from __future__ import annotations


class Fruitless:
    """Pure state of one lane thread: since when its attempts fail and none stores anything.

    ``now`` is monotonic seconds. A connection is dropped once; whatever is stored begins anew.
    """

    def __init__(self, after_seconds: float) -> None:
        self._after_seconds = after_seconds
        self._since: float | None = None
        self._ask_at = 0.0
        self._is_dropped = False

    @property
    def is_dropped(self) -> bool:
        """Whether the connection was dropped and still nothing was stored."""
        return self._is_dropped

    def stored(self) -> None:
        """Something was stored."""
        self._since = None
        self._is_dropped = False

    def failed(self, now: float) -> bool:
        """Note a failed attempt; True when the place is to be asked over another connection."""
        if self._since is None:
            self._since, self._ask_at = now, now + self._after_seconds
        if self._is_dropped or now < self._ask_at:
            return False
        self._ask_at = now + self._after_seconds
        return True

    def dropped(self, now: float) -> float:
        """Tell of a connection that was given up; for how many seconds nothing had been stored."""
        self._is_dropped = True
        return 0.0 if self._since is None else now - self._since
