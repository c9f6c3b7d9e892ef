"""What a worker is composed of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from domain.backpressure import Budget
from domain.events import Tell
from recorder.recorder import Recorder
from recorder.runs import RunDescription
from sinks.dead_letter import DeadLetterWriter
from sinks.lane import Lane
from sinks.router import Router
from workers.clock import Clock
from workers.config import ClusterConfig
from workers.consumer.ownership import Claim, WantedBoard
from workers.executor.base import Executor
from workers.executor.slots import Slots
from workers.handler import Handler
from workers.pipeline.arranging import Arranging
from workers.pipeline.epochs import Epochs
from workers.pipeline.hooks import Hooks
from workers.pipeline.partition import PartitionTools, Spawn
from workers.pipeline.task_life import TaskSteps
from workers.pipeline.task_supervisor import TaskSupervisor
from workers.runtime.listeners.counters import Counters
from workers.runtime.membership import Membership
from workers.runtime.periodic import PeriodicJobs


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerParts:
    """Made by ``workers.runtime.build``."""

    config: ClusterConfig
    run: RunDescription
    handler: Handler[Any]
    hooks: Hooks
    children: TaskSupervisor
    epochs: Epochs
    membership: Membership
    arranging: Arranging
    steps: TaskSteps
    executor: Executor
    slots: Slots
    lanes: Mapping[str, Lane]
    dead_letters: DeadLetterWriter
    router: Router
    recorder: Recorder | None
    counters: Counters
    board: WantedBoard
    budget: Budget[Claim]
    clock: Clock
    tell: Tell
    periodic: PeriodicJobs
    last_resort: Callable[[float], None]
    """Ends the process after so many seconds, whatever hangs."""

    def partition_tools(self, spawn: Spawn) -> PartitionTools:
        """Those of them that partitions work with."""
        return PartitionTools(
            cluster=self.run.cluster,
            handler=self.handler,
            hooks=self.hooks,
            arranging=self.arranging,
            steps=self.steps,
            router=self.router,
            dead_letters=self.dead_letters,
            board=self.board,
            budget=self.budget,
            clock=self.clock,
            tell=self.tell,
            spawn=spawn,
            max_batch_messages=self.config.batch.max_messages,
            batch_linger_seconds=self.config.batch.linger_ms / 1000.0,
        )
