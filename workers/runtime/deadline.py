"""Budget for all of stopping, and the last resort behind it."""

from __future__ import annotations

import threading
import time

from workers.runtime.listeners.streams import end_process


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


def end_process_at(seconds: float, exit_code: int = 1) -> None:
    """End the process after so long, whatever its threads and the loop do (DESIGN decision 13)."""

    def end() -> None:
        end_process(exit_code, f"not stopped within {seconds:.0f} s: ending the process\n")

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
