"""One budget for all of stopping, and the last resort behind it."""

from __future__ import annotations

import os
import sys
import threading
import time


class Deadline:
    """A monotonic instant; each step asks what is left. ``expire_now`` is the second signal."""

    def __init__(self, budget_seconds: float) -> None:
        self.at = time.monotonic() + budget_seconds

    def remaining_seconds(self) -> float:
        """What is left, at least 0."""
        return max(0.0, self.at - time.monotonic())

    def expire_now(self) -> None:
        """No time is left any more."""
        self.at = min(self.at, time.monotonic())


def end_process_at(seconds: float, exit_code: int = 1) -> None:
    """End the process after so long, whatever its threads and the loop do (DESIGN decision 13)."""

    def end() -> None:
        sys.stderr.write(f"not stopped within {seconds:.0f} s: ending the process\n")
        sys.stderr.flush()
        os._exit(exit_code)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
