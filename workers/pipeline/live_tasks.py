"""The unfinished tasks of one partition."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from typing import Any

from domain.decision import DeadLetter, Skip
from domain.message import Message
from domain.task import Task
from domain.text_bounds import number
from workers.handler import Pending
from workers.pipeline.cancelling import end_cancelled
from workers.pipeline.live_task import LiveTask, Phase, TaskEnd
from workers.pipeline.partition_state import PartitionTools, Spawn
from workers.pipeline.task_run import Partition

BUSY = (Phase.RUNNING, Phase.DELIVERING)


class LiveTasks:
    """Runs each as a child of the partition, and tells it of the end; of none once closed."""

    def __init__(
        self,
        partition: Partition,
        tools: PartitionTools,
        spawn: Spawn,
        ended: Callable[[LiveTask, TaskEnd], None],
    ) -> None:
        self._partition = partition
        self._tools = tools
        self._spawn = spawn
        self._ended = ended
        self._live: dict[str, LiveTask] = {}
        self._is_closed = False

    def close(self) -> None:
        """The epoch is over."""
        self._is_closed = True
        self._live.clear()

    def start(self, task: Task, messages: Sequence[Message[Any]]) -> None:
        """Run a task of these messages."""
        live = LiveTask(
            task=task,
            messages=messages,
            priority=self._priority(task, messages[0]),
            queued_at=self._tools.clock.now(),
        )
        self._live[task.id] = live
        live.handle = self._spawn(self._run(live))

    def _priority(self, task: Task, first: Message[Any]) -> float:
        """What the handler says; its age when it says nothing or no number."""
        hooks, handler = self._tools.hooks, self._tools.handler
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
            end = await self._tools.runner.run(live, self._partition)
        except asyncio.CancelledError:
            if live.verdict is None or self._is_closed:
                raise
            current = asyncio.current_task()
            assert current is not None
            current.uncancel()
            end = await end_cancelled(live, live.verdict, self._partition.bury)
        if not self._is_closed:
            del self._live[live.task.id]
            self._ended(live, end)

    def has(self, task_id: str) -> bool:
        """Whether a task is unfinished here."""
        return task_id in self._live

    def cancel(self, task_id: str, verdict: Skip | DeadLetter) -> bool:
        """Cancel an unfinished task; False when its payloads are on their way already."""
        live = self._live[task_id]
        if live.phase is Phase.DELIVERING or live.handle is None:
            return False
        live.verdict = verdict
        live.handle.cancel()
        return True

    def pending(self) -> Pending:
        """What ``arrange`` is told of them."""
        return Pending(tasks={live.task.id: live.task.labels for live in self._live.values()})

    @property
    def all(self) -> Collection[LiveTask]:
        """All of them."""
        return self._live.values()

    @property
    def busy_count(self) -> int:
        """Those that run or deliver now."""
        return sum(1 for live in self._live.values() if live.phase in BUSY)
