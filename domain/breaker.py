"""Circuit breaker around one sink."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Circuit(StrEnum):
    """State of a breaker."""

    CLOSED = "closed"
    HALF_OPEN = "half_open"
    OPEN = "open"


CIRCUIT_NUMBER = {Circuit.CLOSED: 0, Circuit.HALF_OPEN: 1, Circuit.OPEN: 2}
"""Value of the metric ``drakkar_sink_circuit_state``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerPolicy:
    """Open after so many failed batches in a row; probe once after each cooldown."""

    failure_threshold: int = 5
    cooldown_seconds: float = 10.0


class CircuitBreaker:
    """Closed lets all pass; open lets none; half-open lets one probe pass. ``now`` is monotonic."""

    __slots__ = ("_failures", "_opened_at", "_policy", "_probing")

    def __init__(self, policy: BreakerPolicy) -> None:
        self._policy = policy
        self._failures = 0
        self._opened_at: float | None = None
        self._probing = False

    def state(self, now: float) -> Circuit:
        """Return the state at that moment."""
        if self._opened_at is None:
            return Circuit.CLOSED
        if self._probing or self.wait_seconds(now) == 0.0:
            return Circuit.HALF_OPEN
        return Circuit.OPEN

    def allows(self, now: float) -> bool:
        """Whether an attempt may start now; in half-open state the first answer is the probe's."""
        if self._opened_at is None:
            return True
        if self._probing or self.wait_seconds(now) > 0.0:
            return False
        self._probing = True
        return True

    def wait_seconds(self, now: float) -> float:
        """Return the seconds until a probe may start; 0 when closed or due."""
        if self._opened_at is None:
            return 0.0
        return max(0.0, self._opened_at + self._policy.cooldown_seconds - now)

    def probe_by(self, moment: float) -> None:
        """Let the next probe start no later than that: somebody cannot wait for the cooldown."""
        if self._opened_at is not None:
            self._opened_at = min(self._opened_at, moment - self._policy.cooldown_seconds)

    def succeeded(self) -> bool:
        """Note a success; True when it closed the breaker."""
        was_open = self._opened_at is not None
        self._failures = 0
        self._opened_at = None
        self._probing = False
        return was_open

    def failed(self, now: float) -> bool:
        """Note a failure; True when it opened the breaker (a failed probe opens it anew,
        silently)."""
        self._failures += 1
        if self._opened_at is not None:
            self._opened_at = now
            self._probing = False
            return False
        if self._failures < self._policy.failure_threshold:
            return False
        self._opened_at = now
        return True

    def not_tried(self) -> None:
        """Take back what was allowed and came to no attempt: the next one is the probe."""
        self._probing = False

    @property
    def failures(self) -> int:
        """Failed attempts in a row."""
        return self._failures
