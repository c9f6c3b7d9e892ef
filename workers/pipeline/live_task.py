"""A task between arrange and its end, and how it ended."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from domain.decision import DeadLetter, Skip
from domain.failure import TaskFailure
from domain.fate import Fate
from domain.message import Message
from domain.task import Task, TaskResult
from domain.value import value


class Phase(StrEnum):
    """Where a live task stands."""

    QUEUED = "queued"
    RUNNING = "running"
    RETRYING = "retrying"
    DELIVERING = "delivering"


@dataclass(slots=True, kw_only=True, eq=False)
class LiveTask:
    """A task between arrange and its end; owned by its partition's worker."""

    task: Task
    messages: Sequence[Message[Any]]
    priority: float
    queued_at: float
    phase: Phase = Phase.QUEUED
    attempt: int = 0
    lost_runs: int = 0
    slot: int | None = None
    handle: asyncio.Task[None] | None = field(default=None, repr=False)
    verdict: Skip | DeadLetter | None = None
    """What an operator who cancelled it decided."""


@value(frozen=True, slots=True, kw_only=True)
class TaskEnd:
    """How a task ended: its fate, or the tasks that took its place."""

    fate: Fate
    result: TaskResult | None = None
    failure: TaskFailure | None = None
    replaced_by: Sequence[Task] | None = None

    @property
    def output_bytes(self) -> int:
        """What it holds of a program's output."""
        failed = self.failure.result if self.failure is not None else None
        held = self.result if self.result is not None else failed
        return 0 if held is None else len(held.stdout) + len(held.stderr)
