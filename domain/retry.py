"""Back-off and the default answer to a failed task."""

from __future__ import annotations

from dataclasses import dataclass

from domain.decision import DeadLetter, Retry
from domain.failure import TaskFailure


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Exponential back-off: ``initial * factor ** (attempt - 1)``, capped, with relative jitter."""

    initial_seconds: float = 1.0
    factor: float = 2.0
    max_seconds: float = 60.0
    jitter: float = 0.2

    def delay_seconds(self, attempt: int, chance: float) -> float:
        """Return the wait after the ``attempt``-th failure (from 1); ``chance`` in [0, 1) places
        the jitter."""
        exponent = min(attempt - 1, 64)
        base = min(self.initial_seconds * self.factor**exponent, self.max_seconds)
        return base * (1.0 + self.jitter * (2.0 * chance - 1.0))


def default_decision(failure: TaskFailure, max_retries: int) -> Retry | DeadLetter:
    """Retry up to ``max_retries`` times after the first run, then dead-letter."""
    if failure.attempt <= max_retries:
        return Retry()
    return DeadLetter(reason=f"{failure.kind}: {failure.detail} after {failure.attempt} attempts")
