"""What a handler may answer when something failed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from domain.task import Task

MAX_REPLACE_DEPTH = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """Run or deliver again after ``delay_seconds``; None uses the configured back-off."""

    delay_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Replace:
    """Run these tasks in place of the failed one; no task at all counts as ended well."""

    tasks: Sequence[Task]


@dataclass(frozen=True, slots=True, kw_only=True)
class Skip:
    """Give the task or payload up without a trace but this reason."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """Write the message or payload to the dead-letter topic."""

    reason: str


TaskDecision = Retry | Replace | Skip | DeadLetter
DeliveryDecision = Retry | Skip | DeadLetter
