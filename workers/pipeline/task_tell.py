"""What one task tells, in the words of ``domain.events``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from domain.events import (
    Collected,
    TaskCancelled,
    TaskCompleted,
    TaskFailed,
    TaskReplaced,
    TaskRetried,
    TaskStarted,
    Tell,
)
from domain.failure import FailureKind, TaskFailure
from domain.task import TaskResult
from workers.clock import Clock
from workers.executor.base import Exit
from workers.pipeline.live_task import LiveTask


class TaskTeller:
    """One for all tasks of a worker; each method tells one event."""

    __slots__ = ("_clock", "_tell")

    def __init__(self, clock: Clock, tell: Tell) -> None:
        self._clock = clock
        self._tell = tell

    def started(self, live: LiveTask) -> None:
        """An attempt took a slot."""
        task, now = live.task, self._clock.now()
        self._tell(
            TaskStarted(
                **self._place(live, now),
                slot=live.slot,
                attempt=live.attempt,
                queue_ms=(now - live.queued_at) * 1000.0,
                labels=task.labels,
                args=task.args,
                source_offsets=task.source_offsets,
            )
        )

    def exited(
        self, live: LiveTask, outcome: TaskResult | TaskFailure, exit_: Exit, queue_ms: float
    ) -> None:
        """A process ended; how, is in its exit."""
        result = outcome if isinstance(outcome, TaskResult) else outcome.result
        assert result is not None
        sizes = (exit_.stdout_size, exit_.stderr_size)
        self.ended(live, result, exit_.failure, exit_.detail, queue_ms, sizes)

    def ended(
        self,
        live: LiveTask,
        result: TaskResult,
        failure: FailureKind | None,
        detail: str,
        queue_ms: float,
        sizes: tuple[int, int] | None = None,
    ) -> None:
        """An attempt ended; ``sizes`` are those of its output before it was cut."""
        has_code = result.pid is not None or live.task.precomputed is not None
        fields = self._place(live) | {
            "slot": live.slot,
            "attempt": live.attempt,
            "exit_code": result.exit_code if has_code else None,
            "pid": result.pid,
            "duration_ms": result.duration_seconds * 1000.0,
            "queue_ms": queue_ms,
            "labels": live.task.labels,
            "args": live.task.args,
            "stdout": result.stdout,
            "stderr": result.stderr,
            "stdout_size": sizes[0] if sizes else len(result.stdout),
            "stderr_size": sizes[1] if sizes else len(result.stderr),
            "started_at": result.started_at,
            "user_cpu_seconds": result.usage.user_cpu_seconds,
            "system_cpu_seconds": result.usage.system_cpu_seconds,
            "max_rss_bytes": result.usage.max_rss_bytes,
        }
        if failure is None:
            self._tell(TaskCompleted(**fields))
        else:
            self._tell(TaskFailed(**fields, failure=failure.value, detail=detail))

    def retried(self, live: LiveTask, delay_seconds: float, failure: FailureKind) -> None:
        """It will run again after so long."""
        self._tell(
            TaskRetried(
                **self._place(live),
                attempt=live.attempt,
                delay_ms=delay_seconds * 1000.0,
                failure=failure.value,
            )
        )

    def replaced(self, live: LiveTask, task_ids: Sequence[str]) -> None:
        """Other tasks took its place."""
        self._tell(TaskReplaced(**self._place(live), attempt=live.attempt, task_ids=task_ids))

    def collected(self, live: LiveTask, payloads: int, began: float) -> None:
        """``collect`` gave payloads."""
        now = self._clock.now()
        self._tell(
            Collected(
                **self._place(live, now),
                hook="collect",
                payloads=payloads,
                duration_ms=(now - began) * 1000.0,
            )
        )

    def cancelled(self, live: LiveTask, reason: str) -> None:
        """It ended without an end of its own."""
        self._tell(
            TaskCancelled(
                **self._place(live),
                attempt=live.attempt,
                slot=live.slot,
                reason=reason,
            )
        )

    def _place(self, live: LiveTask, now: float | None = None) -> dict[str, Any]:
        message = live.messages[0]
        return {
            "at": self._clock.wall() if now is None else self._clock.wall_at(now),
            "topic": message.topic,
            "partition": message.partition,
            "offset": message.offset,
            "task_id": live.task.id,
        }
