"""One task through its steps: attempts, the handler's decision, collect, deliver."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from domain.decision import (
    MAX_REPLACE_DEPTH,
    DeadLetter,
    Replace,
    Retry,
    Skip,
    check_decision,
)
from domain.failure import DeadLetterCause, FailureKind, Stage, TaskFailure
from domain.fate import Fate
from domain.message import Message
from domain.origin import MessageOrigin, Origin, Sources, task_number
from domain.retry import Backoff, default_decision
from domain.task import Task, TaskResult, accepted
from domain.text_bounds import described, plain_text
from workers.clock import Clock
from workers.handler import Handler
from workers.pipeline.attempts import Attempts, Parkable, requeue, wait_to_run_again
from workers.pipeline.hooks import HookFailed, Hooks
from workers.pipeline.live_task import LiveTask, Phase, TaskEnd
from workers.pipeline.task_tell import TaskTeller


class Partition(Parkable, Protocol):
    """What a task needs of its partition."""

    async def deliver(self, live: LiveTask, payloads: Sequence[tuple[Any, Origin]]) -> Fate: ...

    async def admit_letters(self, messages: Sequence[Message[Any]]) -> None: ...

    async def bury(self, message: Message[Any], cause: DeadLetterCause) -> None: ...

    def step(self, offset: int) -> AbstractAsyncContextManager[None]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRunner:
    """The steps of a task, the same for all partitions; stateless but for the slots."""

    handler: Handler[Any]
    hooks: Hooks
    attempts: Attempts
    cluster: str
    clock: Clock
    teller: TaskTeller
    backoff: Backoff
    chance: Callable[[], float] = random.random

    async def run(self, live: LiveTask, partition: Partition) -> TaskEnd:
        """Run a task to its end, attempt by attempt. Cancelled: its process is dead on return."""
        try:
            while True:
                outcome = await self.attempts.run(live, partition)
                if isinstance(outcome, TaskResult):
                    return await self._collect(live, outcome, partition)
                end = await self._after_failure(live, outcome, partition)
                if end is not None:
                    return end
        except asyncio.CancelledError:
            self.teller.cancelled(live, live.verdict.reason if live.verdict else "epoch ended")
            raise

    async def _after_failure(
        self, live: LiveTask, failure: TaskFailure, partition: Partition
    ) -> TaskEnd | None:
        """Ask the handler; None means: run again."""
        try:
            if (
                live.task.precomputed is not None
                and type(self.handler).on_error is Handler.on_error
            ):
                decision: Any = default_decision(failure, 0)
            else:
                async with partition.step(live.task.source_offsets[0]):
                    decision = await self._hook(live, self.handler.on_error, failure)
                check_decision(decision)
        except HookFailed as failed:
            return await self._bury(live, failure, failed.detail, partition, trace=failed.trace)
        except Exception as exc:  # noqa: BLE001 - an answer may raise anything while it is read
            return await self._bury(live, failure, f"on_error: {described(exc)}", partition)
        match decision:
            case Retry(delay_seconds=delay):
                await self._wait_to_retry(live, failure, delay, partition)
                return None
            case Replace(tasks=tasks):
                return await self._replace(live, failure, tasks, partition)
            case Skip():
                return TaskEnd(fate=Fate.SKIPPED, failure=failure)
            case DeadLetter(reason=reason):
                return await self._bury(live, failure, reason, partition)
        raise AssertionError(f"no decision: {decision!r}")

    async def _wait_to_retry(
        self, live: LiveTask, failure: TaskFailure, delay: float | None, partition: Partition
    ) -> None:
        if delay is None:
            delay = self.backoff.delay_seconds(failure.attempt, self.chance())
        self.teller.retried(live, delay, failure.kind)
        await wait_to_run_again(live, delay, partition)
        requeue(live, self.clock)

    async def _replace(
        self, live: LiveTask, failure: TaskFailure, tasks: Sequence[Task], partition: Partition
    ) -> TaskEnd:
        if live.task.id.count(".r") >= MAX_REPLACE_DEPTH:
            reason = f"a chain of {MAX_REPLACE_DEPTH} replacements did not end well"
            return await self._bury(live, failure, reason, partition)
        numbered = [
            accepted(
                task,
                self.hooks.bounds,
                task_id=f"{live.task.id}.r{k}",
                parent_id=live.task.id,
                source_offsets=live.task.source_offsets,
            )
            for k, task in enumerate(tasks, 1)
        ]
        self.teller.replaced(live, [task.id for task in numbered])
        return TaskEnd(fate=Fate.DELIVERED, failure=failure, replaced_by=numbered)

    async def _bury(
        self,
        live: LiveTask,
        failure: TaskFailure,
        reason: str,
        partition: Partition,
        *,
        stage: Stage = Stage.TASK,
        trace: str = "",
    ) -> TaskEnd:
        live.phase = Phase.QUEUED
        await partition.admit_letters(live.messages)
        live.phase = Phase.DELIVERING
        told = self.hooks.bounds.reason(plain_text(reason) or "")
        for message in live.messages:
            await partition.bury(
                message,
                DeadLetterCause(
                    stage=stage,
                    kind=failure.kind,
                    reason=told,
                    traceback=trace,
                    attempts=live.attempt,
                    task_id=live.task.id,
                ),
            )
        return TaskEnd(fate=Fate.DEAD_LETTERED, failure=failure)

    async def _collect(self, live: LiveTask, result: TaskResult, partition: Partition) -> TaskEnd:
        live.phase = Phase.DELIVERING
        began = self.clock.now()
        try:
            first = live.messages[0]
            async with partition.step(live.task.source_offsets[0]):
                payloads = await self.hooks.call_list(
                    self.handler.collect, result, topic=first.topic, partition=first.partition
                )
            pairs = self._with_origins(live, payloads)
            self.teller.collected(live, len(payloads), began)
            fate = await partition.deliver(live, pairs) if pairs else Fate.DELIVERED
        except HookFailed as failed:
            failure = TaskFailure(
                task=live.task,
                kind=FailureKind.HANDLER,
                detail=failed.detail,
                attempt=live.attempt,
                result=result,
            )
            return await self._bury(
                live, failure, failed.detail, partition, stage=Stage.COLLECT, trace=failed.trace
            )
        return TaskEnd(fate=fate, result=result)

    def _with_origins(self, live: LiveTask, payloads: Sequence[Any]) -> list[tuple[Any, Origin]]:
        origins = [MessageOrigin.of(message, self.cluster) for message in live.messages]
        lead = origins[0] if len(origins) == 1 else Sources.of(origins).lead
        number = task_number(live.task.id)
        return [
            (payload, Origin(message=lead, n=number, hook="collect", index=index))
            for index, payload in enumerate(payloads)
        ]

    async def _hook(self, live: LiveTask, hook: Callable[..., Any], *args: Any) -> Any:
        message = live.messages[0]
        return await self.hooks.call(hook, *args, topic=message.topic, partition=message.partition)
