"""One task through its steps: wait for a slot, run, decide, collect, deliver."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

from domain.decision import (
    MAX_REPLACE_DEPTH,
    DeadLetter,
    Replace,
    Retry,
    Skip,
    check_decision,
)
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
from domain.failure import DeadLetterCause, FailureKind, Stage, TaskFailure
from domain.fate import Fate
from domain.message import Message
from domain.origin import MessageOrigin, Origin, task_number
from domain.retry import Backoff, default_decision
from domain.task import Limits, Task, TaskResult, Usage
from domain.trace_context import traceparent_of
from workers.clock import Clock
from workers.executor.base import Executor, Exit, Launch
from workers.executor.slots import Slots
from workers.handler import Handler
from workers.hooks import HookFailed, Hooks

if TYPE_CHECKING:
    from workers.config import ExecutorConfig

MAX_LOST_RUNS = 3
PARK_RETRY_SECONDS = 10.0
PROGRAM_ERRORS = frozenset(
    {
        errno.ENOENT, errno.EACCES, errno.ENOEXEC, errno.ENOTDIR, errno.ETXTBSY,
        errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE,
    }
)  # fmt: skip
"""Why a program cannot be started that is no message's fault (law 9): it is missing, or the machine
has no process, memory or descriptor left."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
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


class Partition(Protocol):
    """What a task needs of its partition."""

    async def deliver(self, live: LiveTask, payloads: Sequence[tuple[Any, Origin]]) -> Fate: ...

    async def bury(self, message: Message[Any], cause: DeadLetterCause) -> None: ...

    def park(self, cause: str, detail: str) -> None: ...

    def unpark(self, cause: str) -> None: ...

    hurry: asyncio.Event


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRunner:
    """The steps of a task, shared by all partitions; stateless but for the slots."""

    handler: Handler[Any]
    hooks: Hooks
    executor: Executor
    slots: Slots
    config: ExecutorConfig
    base_env: Mapping[str, str]
    limits: Limits
    cluster: str
    clock: Clock
    tell: Tell
    backoff: Backoff
    chance: Callable[[], float] = random.random

    async def run(self, live: LiveTask, partition: Partition) -> TaskEnd:
        """Run a task to its end, attempt by attempt. Cancelled: its process is dead on return."""
        try:
            while True:
                outcome = await self._attempt(live, partition)
                if isinstance(outcome, TaskResult):
                    return await self._collect(live, outcome, partition)
                end = await self._after_failure(live, outcome, partition)
                if end is not None:
                    return end
        except asyncio.CancelledError:
            self._tell_cancelled(live, live.verdict.reason if live.verdict else "epoch ended")
            raise

    async def _attempt(self, live: LiveTask, partition: Partition) -> TaskResult | TaskFailure:
        while True:
            live.attempt += 1
            if live.task.precomputed is not None:
                return self._precomputed(live)
            exit_ = await self._in_slot(live)
            if exit_.spawn_errno in PROGRAM_ERRORS:
                await self._wait_for_program(live, exit_, partition)
                continue
            if live.lost_runs == 0 or exit_.failure is not FailureKind.LOST:
                partition.unpark("program")
            outcome, queue_ms = self._outcome(live, exit_), self._queue_ms(live, exit_)
            self._tell_outcome(live, outcome, exit_, queue_ms)
            if self._is_run_again(live, exit_):
                continue
            return outcome

    def _is_run_again(self, live: LiveTask, exit_: Exit) -> bool:
        """A task whose spawner died runs again by itself, a few times."""
        if exit_.failure is not FailureKind.LOST or live.lost_runs >= MAX_LOST_RUNS:
            return False
        live.lost_runs += 1
        self._requeue(live)
        return True

    async def _in_slot(self, live: LiveTask) -> Exit:
        owner = live.messages[0].partition
        live.phase = Phase.QUEUED
        slot = await self.slots.acquire(owner=owner, priority=live.priority)
        try:
            live.slot, live.phase = slot, Phase.RUNNING
            self._tell_started(live)
            return await self.executor.run(self._launch(live))
        finally:
            self.slots.release(slot, owner)

    def _launch(self, live: LiveTask) -> Launch:
        task, config = live.task, self.config
        env = {**self.base_env, **task.env}
        env["DRAKKAR_TASK_ID"] = task.id
        env["DRAKKAR_ATTEMPT"] = str(live.attempt)
        env["DRAKKAR_CLUSTER"] = self.cluster
        traceparent = traceparent_of(live.messages[0])
        if traceparent is not None:
            env["TRACEPARENT"] = traceparent
        program = task.binary or config.binary or ""
        return Launch(
            argv=(program, *task.args),
            env=env,
            stdin=task.stdin,
            cwd=config.cwd,
            timeout_seconds=task.timeout_seconds or config.task_timeout_seconds,
            kill_grace_seconds=config.kill_grace_seconds,
            max_stdout_bytes=config.max_stdout_bytes,
            max_stderr_bytes=config.max_stderr_bytes,
            limits=task.limits or self.limits,
        )

    async def _wait_for_program(self, live: LiveTask, exit_: Exit, partition: Partition) -> None:
        """A missing program is not the message's fault: the partition parks and tries again."""
        self._tell_cancelled(live, f"not started: {exit_.detail}")
        partition.park("program", exit_.detail)
        live.attempt -= 1
        live.phase = Phase.RETRYING
        await asyncio.sleep(PARK_RETRY_SECONDS)
        self._requeue(live)

    def _requeue(self, live: LiveTask) -> None:
        live.queued_at = self.clock.now()
        live.slot = None

    def _precomputed(self, live: LiveTask) -> TaskResult | TaskFailure:
        given = live.task.precomputed
        assert given is not None
        result = TaskResult(
            task=live.task,
            exit_code=given.exit_code,
            stdout=given.stdout,
            stderr=given.stderr,
            started_at=self.clock.wall(),
            duration_seconds=0.0,
            pid=None,
            usage=Usage(),
            truncated=False,
            attempt=live.attempt,
        )
        self._tell_started(live)
        failure = None if given.exit_code == 0 else FailureKind.EXIT
        self._tell_result(live, result, failure, f"exit code {given.exit_code}", 0.0)
        if failure is None:
            return result
        return TaskFailure(
            task=live.task,
            kind=failure,
            detail=f"exit code {given.exit_code}",
            attempt=live.attempt,
            result=result,
        )

    def _outcome(self, live: LiveTask, exit_: Exit) -> TaskResult | TaskFailure:
        result = TaskResult(
            task=live.task,
            exit_code=exit_.exit_code if exit_.exit_code is not None else -1,
            stdout=exit_.stdout,
            stderr=exit_.stderr,
            started_at=self.clock.wall_at(exit_.started_at),
            duration_seconds=exit_.duration_seconds,
            pid=exit_.pid,
            usage=exit_.usage,
            truncated=exit_.truncated,
            attempt=live.attempt,
        )
        if exit_.failure is None:
            return result
        return TaskFailure(
            task=live.task,
            kind=exit_.failure,
            detail=exit_.detail,
            attempt=live.attempt,
            result=result,
        )

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
                decision = await self._hook(live, self.handler.on_error, failure)
                check_decision(decision)
        except HookFailed as failed:
            return await self._bury(live, failure, failed.detail, partition, trace=failed.trace)
        except (TypeError, ValueError) as exc:
            return await self._bury(live, failure, f"on_error: {exc}", partition)
        match decision:
            case Retry(delay_seconds=delay):
                await self._wait_to_retry(live, failure, delay, partition.hurry)
                return None
            case Replace(tasks=tasks):
                return await self._replace(live, failure, tasks, partition)
            case Skip():
                return TaskEnd(fate=Fate.SKIPPED, failure=failure)
            case DeadLetter(reason=reason):
                return await self._bury(live, failure, reason, partition)
        raise AssertionError(f"no decision: {decision!r}")

    async def _wait_to_retry(
        self,
        live: LiveTask,
        failure: TaskFailure,
        delay: float | None,
        hurry: asyncio.Event,
    ) -> None:
        if delay is None:
            delay = self.backoff.delay_seconds(failure.attempt, self.chance())
        live.phase = Phase.RETRYING
        at = self._at(live)
        self.tell(
            TaskRetried(
                **at, attempt=live.attempt, delay_ms=delay * 1000.0, failure=failure.kind.value
            )
        )
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay):
                await hurry.wait()
        self._requeue(live)

    async def _replace(
        self, live: LiveTask, failure: TaskFailure, tasks: Sequence[Task], partition: Partition
    ) -> TaskEnd:
        if live.task.id.count(".r") >= MAX_REPLACE_DEPTH:
            reason = f"a chain of {MAX_REPLACE_DEPTH} replacements did not end well"
            return await self._bury(live, failure, reason, partition)
        numbered = [
            replace(
                task,
                id=f"{live.task.id}.r{k}",
                parent_id=live.task.id,
                source_offsets=live.task.source_offsets,
            )
            for k, task in enumerate(tasks, 1)
        ]
        ids = [task.id for task in numbered]
        self.tell(TaskReplaced(**self._at(live), attempt=live.attempt, task_ids=ids))
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
        live.phase = Phase.DELIVERING
        for message in live.messages:
            await partition.bury(
                message,
                DeadLetterCause(
                    stage=stage,
                    kind=failure.kind,
                    reason=reason,
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
            payloads = await self.hooks.call_list(
                self.handler.collect, result, topic=first.topic, partition=first.partition
            )
            origin = MessageOrigin.of(first, self.cluster)
            number = task_number(live.task.id)
            pairs = [
                (payload, Origin(message=origin, n=number, hook="collect", index=index))
                for index, payload in enumerate(payloads)
            ]
            self._tell_collected(live, len(payloads), began)
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

    async def _hook(self, live: LiveTask, hook: Callable[..., Any], *args: Any) -> Any:
        message = live.messages[0]
        return await self.hooks.call(hook, *args, topic=message.topic, partition=message.partition)

    def _at(self, live: LiveTask, now: float | None = None) -> dict[str, Any]:
        message = live.messages[0]
        return {
            "at": self.clock.wall() if now is None else self.clock.wall_at(now),
            "topic": message.topic,
            "partition": message.partition,
            "offset": message.offset,
            "task_id": live.task.id,
        }

    def _queue_ms(self, live: LiveTask, exit_: Exit) -> float:
        return max(0.0, (exit_.started_at - live.queued_at) * 1000.0)

    def _tell_started(self, live: LiveTask) -> None:
        task, now = live.task, self.clock.now()
        self.tell(
            TaskStarted(
                **self._at(live, now),
                slot=live.slot,
                attempt=live.attempt,
                queue_ms=(now - live.queued_at) * 1000.0,
                labels=task.labels,
                args=task.args,
                source_offsets=task.source_offsets,
            )
        )

    def _tell_outcome(
        self, live: LiveTask, outcome: TaskResult | TaskFailure, exit_: Exit, queue_ms: float
    ) -> None:
        result = outcome if isinstance(outcome, TaskResult) else outcome.result
        assert result is not None
        sizes = (exit_.stdout_size, exit_.stderr_size)
        self._tell_result(live, result, exit_.failure, exit_.detail, queue_ms, sizes)

    def _tell_result(
        self,
        live: LiveTask,
        result: TaskResult,
        failure: FailureKind | None,
        detail: str,
        queue_ms: float,
        sizes: tuple[int, int] | None = None,
    ) -> None:
        fields = self._at(live) | {
            "slot": live.slot,
            "attempt": live.attempt,
            "exit_code": result.exit_code,
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
            self.tell(TaskCompleted(**fields))
        else:
            self.tell(TaskFailed(**fields, failure=failure.value, detail=detail))

    def _tell_collected(self, live: LiveTask, payloads: int, began: float) -> None:
        now = self.clock.now()
        self.tell(
            Collected(
                **self._at(live, now),
                hook="collect",
                payloads=payloads,
                duration_ms=(now - began) * 1000.0,
            )
        )

    def _tell_cancelled(self, live: LiveTask, reason: str) -> None:
        self.tell(
            TaskCancelled(
                **self._at(live),
                attempt=live.attempt,
                slot=live.slot,
                reason=reason,
            )
        )
