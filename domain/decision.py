"""Answers that a handler may give when something failed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from domain.task import MAX_SECONDS, Task, accepted
from domain.text_bounds import TextBounds, finite, plain_text, shown

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


def check_decision(decision: Any, *, of_delivery: bool = False) -> None:
    """Raises TypeError or ValueError for what a hook must not answer, and says what is wrong."""
    match decision:
        case Retry(delay_seconds=delay):
            seconds = 0.0 if delay is None else finite(delay)
            if seconds is None or seconds > MAX_SECONDS:
                raise ValueError(
                    f"delay_seconds: expected seconds, at most {MAX_SECONDS:,}, or None, "
                    f"got {shown(delay)}"
                )
        case Replace(tasks=tasks) if not of_delivery:
            if not isinstance(tasks, Sequence):
                raise TypeError(f"tasks: expected a list, got {type(tasks).__name__}")
            for task in tasks:
                accepted(task, TextBounds())
        case Skip(reason=reason) | DeadLetter(reason=reason):
            if plain_text(reason) is None:
                raise TypeError(f"reason: expected text, got {type(reason).__name__}")
        case _:
            names = "Retry, Skip" if of_delivery else "Retry, Replace, Skip"
            got = type(decision).__name__
            raise TypeError(f"expected {names} or DeadLetter, got {got}")
