"""One clock per worker: wall time is an anchor plus the monotonic clock, so it never jumps."""

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
