"""A task that an operator cancelled: its fate is decided already, the handler is not asked."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from domain.decision import DeadLetter, Skip
from domain.failure import DeadLetterCause, FailureKind, Stage, TaskFailure
from domain.fate import Fate
from domain.message import Message
from workers.pipeline.live_task import LiveTask, Phase, TaskEnd

Bury = Callable[[Message[Any], DeadLetterCause], Awaitable[None]]


async def end_cancelled(live: LiveTask, verdict: Skip | DeadLetter, bury: Bury) -> TaskEnd:
    """The end of a cancelled task, after its letters are written."""
    failure = TaskFailure(
        task=live.task,
        kind=FailureKind.CANCELLED,
        detail=verdict.reason,
        attempt=live.attempt,
        result=None,
    )
    if isinstance(verdict, Skip):
        return TaskEnd(fate=Fate.SKIPPED, failure=failure)
    live.phase = Phase.DELIVERING
    cause = DeadLetterCause(
        stage=Stage.TASK,
        kind=FailureKind.CANCELLED,
        reason=verdict.reason,
        attempts=live.attempt,
        task_id=live.task.id,
    )
    for message in live.messages:
        await bury(message, cause)
    return TaskEnd(fate=Fate.DEAD_LETTERED, failure=failure)
