"""One clock per worker, wall time by an anchor plus the monotonic clock so that it never jumps; and
the budget of a stop."""

from __future__ import annotations

import time


class Clock:
    """``now`` is monotonic seconds; ``wall`` is UTC epoch seconds of the same instant."""

    def __init__(self) -> None:
        self._anchor = time.time() - time.monotonic()

    now = staticmethod(time.monotonic)

    def wall(self) -> float:
        """UTC epoch seconds."""
        return self._anchor + time.monotonic()

    def wall_at(self, now: float) -> float:
        """UTC epoch seconds of a monotonic instant."""
        return self._anchor + now


class Deadline:
    """Monotonic instant by which stopping ends; each step asks what is left."""

    def __init__(self, budget_seconds: float) -> None:
        self.at = time.monotonic() + budget_seconds

    def remaining_seconds(self) -> float:
        """Return the seconds that are left, at least 0."""
        return max(0.0, self.at - time.monotonic())

    def expire_now(self) -> None:
        """No time is left any more."""
        self.at = min(self.at, time.monotonic())
