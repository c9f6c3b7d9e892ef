"""Judge of errors that no table knows: the fault is found by what else the sink stored.

docs/decisions/0008-encode-then-send.md says why.
"""

from __future__ import annotations

LONE_ATTEMPTS = 3
"""Failures alone, each on a connection of its own, before a payload is refused unproven."""
FIRST_PAUSE_SECONDS = 1.0
LAST_PAUSE_SECONDS = 60.0


class UnknownErrors:
    """Pure state of one lane; the caller holds the lane's lock. ``now`` is monotonic seconds.

    ``stored`` counts payloads stored so far. A payload that failed alone is refused

    - *proven*: the sink stored another one in the same batch, or since it failed before;
    - *unproven*: nothing tells the payload from an ill server, but it failed LONE_ATTEMPTS times.
      One is refused so, then none for a second, and twice as long each time up to a minute, until
      something is stored: an ill server costs at most a letter a minute, and no lane stands for
      ever.
    """

    def __init__(self) -> None:
        self.stored = 0
        self._unproven = 0
        self._not_before = 0.0

    def note_stored(self, count: int) -> None:
        """So many were stored: the server works."""
        self.stored += count
        self._unproven = 0
        self._not_before = 0.0

    def is_proven(self, *, stored_before: int) -> bool:
        """Whether something was stored since the count was ``stored_before``."""
        return self.stored > stored_before

    def refuses_unproven(self, *, lone_failures: int, now: float) -> bool:
        """Whether a payload is refused for its failures alone; True charges the pause."""
        if lone_failures < LONE_ATTEMPTS or now < self._not_before:
            return False
        pause = min(FIRST_PAUSE_SECONDS * 2.0**self._unproven, LAST_PAUSE_SECONDS)
        self._unproven = min(self._unproven + 1, 10)
        self._not_before = now + pause
        return True
