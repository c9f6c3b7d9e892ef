"""The unfinished tasks of one partition."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from domain.decision import DeadLetter, Skip
from domain.message import Record
from domain.task import Task
from domain.text_bounds import number
from workers.handler import Pending, overrides
from workers.pipeline.message_life import LiveMessage
from workers.pipeline.task_life import LEAVING, WORKING, LiveTask, TaskState

if TYPE_CHECKING:
    from workers.pipeline.partition import PartitionWorker


class LiveTasks:
    """Runs each as a child of the partition, and hands on its end; of none once it is fenced."""

    def __init__(self, partition: PartitionWorker) -> None:
        self._partition = partition
        self._tools = partition.tools
        self._live: dict[str, LiveTask] = {}
        self._has_priority = overrides(self._tools.handler, "task_priority")

    def start(self, task: Task, messages: Sequence[LiveMessage]) -> None:
        """Run a task of these messages."""
        live = LiveTask(
            task=task,
            messages=messages,
            priority=self._priority(task, messages[0].record),
            queued_at=self._tools.clock.now(),
        )
        self._live[task.id] = live
        live.handle = self._partition.child(self._run(live))

    def _priority(self, task: Task, first: Record) -> float:
        """What the handler says; its age when it says nothing or no number."""
        hooks, handler = self._tools.hooks, self._tools.handler
        wanted: Any = task.priority
        if self._has_priority:
            wanted = hooks.call_now(handler.task_priority, None, task)
        if wanted is not None:
            if (found := number(wanted)) is not None:
                return found
            wrong = TypeError(f"expected a number or None, got {type(wanted).__name__}")
            hooks.count_error("task_priority", wrong)
        now_ms = self._tools.clock.wall() * 1000.0
        # A record of tomorrow would wait for all of today's; one of no time (-1) is as old as now.
        return min(float(first.timestamp), now_ms) if first.timestamp >= 0 else now_ms

    async def _run(self, live: LiveTask) -> None:
        try:
            end = await self._tools.steps.run(live, self._partition)
        finally:
            self._live.pop(live.task.id, None)
        if live.is_fenced:
            return
        self._partition.completion.task_ended(live, end)
        for task in end.replaced_by or ():
            self.start(task, live.messages)

    def has(self, task_id: str) -> bool:
        """Whether a task is unfinished here."""
        return task_id in self._live

    def cancel(self, task_id: str, verdict: Skip | DeadLetter) -> bool:
        """Cancel an unfinished task; False when its payloads are on their way already."""
        live = self._live[task_id]
        if live.state in LEAVING:
            return False
        live.verdict = verdict
        live.cancel()
        return True

    def pending(self) -> Pending:
        """What ``arrange`` is told of them."""
        return Pending(tasks={live.task.id: live.task.labels for live in self._live.values()})

    @property
    def all(self) -> Collection[LiveTask]:
        """All of them."""
        return self._live.values()

    @property
    def waiting_count(self) -> int:
        """Those that wait for a slot."""
        return sum(1 for live in self._live.values() if live.state is TaskState.QUEUED)

    @property
    def working_count(self) -> int:
        """Those for which something is done now."""
        return sum(1 for live in self._live.values() if live.state in WORKING)
