"""The life of one task: its states, and its steps from top to bottom.

Slot, run, judge, collect, deliver, end. The drawing, and what each state means to an operator:
docs/life-cycle.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from domain.decision import MAX_REPLACE_DEPTH, DeadLetter, Replace, Retry, Skip, check_decision
from domain.failure import DeadLetterCause, FailureKind, Stage, TaskFailure
from domain.fate import Fate
from domain.origin import MessageOrigin, Origin, Sources, task_number
from domain.parking import ParkingCause
from domain.retry import Backoff, default_decision
from domain.task import Limits, Task, TaskResult, Usage, accepted
from domain.text_bounds import described, plain_text
from domain.trace_context import traceparent_of
from domain.value import value
from workers.clock import Clock
from workers.executor.base import Executor, Exit, Launch
from workers.executor.slots import Slots
from workers.handler import Handler
from workers.pipeline.deliveries import Deliveries
from workers.pipeline.guard import CrashGuard
from workers.pipeline.hooks import HookFailed, Hooks
from workers.pipeline.message_life import LiveMessage, MessageState, NoSuchTransition
from workers.pipeline.telling import TaskTeller

if TYPE_CHECKING:
    from workers.config import ExecutorConfig

MAX_LOST_RUNS = 3
PARK_RETRY_SECONDS = 10.0
NO_PROGRAM = (
    "executor.binary: expected a program, got none, and the task names none (Task.binary): "
    "set one of them"
)
HURRIED_SECONDS = 0.5
"""The longest wait for a retry while a drain waits for it."""
PROGRAM_ERRORS = frozenset(
    {
        errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOEXEC, errno.ELIBBAD, errno.ENOTDIR,
        errno.ETXTBSY, errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ENOSPC,
        errno.EIO, errno.EREMOTEIO, errno.ESTALE, errno.ENODEV, errno.ENXIO, errno.ENOTCONN,
        errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EINTR,
    }
)  # fmt: skip
"""Why a program cannot be started that is no message's fault (law 9): it is missing, its disk or
mount is ill, or the machine has no process, memory or descriptor left."""


class TaskState(StrEnum):
    """Where a task stands between arrange and its end."""

    QUEUED = "queued"
    """Waits for a slot."""
    RUNNING = "running"
    """Its program runs."""
    JUDGING = "judging"
    """An attempt failed; the handler's ``on_error`` is asked."""
    RETRYING = "retrying"
    """Waits to run again: for its back-off, or for a program that cannot be started."""
    COLLECTING = "collecting"
    """An attempt ended well; the handler's ``collect`` is asked."""
    DELIVERING = "delivering"
    """What ``collect`` gave is on its way."""
    WITHHELD = "withheld"
    """Its dead letter may not be written yet: it would make a flood."""
    DEAD_LETTERING = "dead_lettering"
    """Its dead letter is on its way."""
    ENDED = "ended"
    """Its messages count it as ended, or others took its place."""
    LEFT = "left"
    """Cancelled with its epoch: the next owner makes it again."""


_S = TaskState
_CANCELLED = frozenset({_S.ENDED, _S.DEAD_LETTERING, _S.LEFT})
"""An operator skips it, an operator has its letter written, or its epoch ended."""
TASK_TRANSITIONS: Mapping[TaskState, frozenset[TaskState]] = {
    _S.QUEUED: _CANCELLED | {_S.RUNNING},
    _S.RUNNING: _CANCELLED | {_S.COLLECTING, _S.JUDGING, _S.RETRYING, _S.QUEUED},
    _S.JUDGING: _CANCELLED | {_S.RETRYING, _S.WITHHELD},
    _S.RETRYING: _CANCELLED | {_S.QUEUED},
    _S.COLLECTING: frozenset({_S.DELIVERING, _S.WITHHELD, _S.ENDED, _S.LEFT}),
    _S.DELIVERING: frozenset({_S.WITHHELD, _S.ENDED, _S.LEFT}),
    _S.WITHHELD: _CANCELLED,
    _S.DEAD_LETTERING: frozenset({_S.ENDED, _S.LEFT}),
    _S.ENDED: frozenset(),
    _S.LEFT: frozenset(),
}
"""Each state with those that may follow it."""

LEAVING = frozenset({_S.COLLECTING, _S.DELIVERING, _S.DEAD_LETTERING})
"""Something of the task is on its way out: an operator can cancel it no more."""
WORKING = LEAVING | {_S.RUNNING, _S.JUDGING}
"""Some work is done for the task now."""


@dataclass(slots=True, kw_only=True, eq=False)
class LiveTask:
    """A task between arrange and its end; owned by its partition's worker."""

    task: Task
    messages: Sequence[LiveMessage]
    priority: float
    queued_at: float
    state: TaskState = TaskState.QUEUED
    attempt: int = 0
    lost_runs: int = 0
    slot: int | None = None
    handle: asyncio.Task[None] | None = field(default=None, repr=False)
    verdict: Skip | DeadLetter | None = None
    """What an operator who cancelled it decided."""

    def enter(self, state: TaskState) -> None:
        """Go on to a state. Raises NoSuchTransition when that does not follow this one."""
        if state not in TASK_TRANSITIONS[self.state]:
            raise NoSuchTransition(f"task {self.task.id}: {self.state} to {state}")
        self.state = state

    def requeue(self, now: float) -> None:
        """Wait for a slot once more."""
        self.enter(TaskState.QUEUED)
        self.queued_at = now
        self.slot = None

    @property
    def is_fenced(self) -> bool:
        """Whether the epoch is over: nothing that comes of the task counts."""
        return self.messages[0].state is MessageState.LEFT

    def cancel(self) -> None:
        """Raise CancelledError where it waits."""
        if self.handle is not None:
            self.handle.cancel()


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


class Partition(Protocol):
    """What the steps of a task need of its partition."""

    guard: CrashGuard
    deliveries: Deliveries
    hurry: asyncio.Event

    def park(self, cause: ParkingCause, detail: str) -> None: ...

    def unpark(self, cause: ParkingCause) -> None: ...

    def leave_task(self, live: LiveTask) -> bool: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSteps:
    """The steps of a task, the same for all partitions; stateless but for the slots."""

    handler: Handler[Any]
    hooks: Hooks
    executor: Executor
    slots: Slots
    config: ExecutorConfig
    base_env: Mapping[str, str]
    limits: Limits
    cluster: str
    clock: Clock
    teller: TaskTeller
    backoff: Backoff
    chance: Callable[[], float] = random.random

    async def run(self, live: LiveTask, partition: Partition) -> TaskEnd:
        """Take a task to its end. Cancelled, unless an operator decided how it ends: its process is
        dead on return."""
        try:
            try:
                end = await self._attempts(live, partition)
            except asyncio.CancelledError:
                end = await self._end_cancelled(live, partition)
        except asyncio.CancelledError:
            live.enter(TaskState.LEFT)
            raise
        live.enter(TaskState.ENDED)
        return end

    async def _attempts(self, live: LiveTask, partition: Partition) -> TaskEnd:
        while True:
            outcome = await self._attempt(live, partition)
            if isinstance(outcome, TaskResult):
                return await self._collect(live, outcome, partition)
            if outcome is not None and (end := await self._judge(live, outcome, partition)):
                return end
            live.requeue(self.clock.now())

    # -- slot, run -----------------------------------------------------------------------------

    async def _attempt(
        self, live: LiveTask, partition: Partition
    ) -> TaskResult | TaskFailure | None:
        """Run once; None: it is to run again for no fault of its own."""
        live.attempt += 1
        if live.task.precomputed is not None:
            return self._precomputed(live)
        exit_ = await self._in_slot(live, partition)
        if exit_.spawn_errno in PROGRAM_ERRORS:
            await self._wait_for_program(live, exit_, partition)
            return None
        is_lost = exit_.failure is FailureKind.LOST
        if live.lost_runs == 0 or not is_lost:
            partition.unpark(ParkingCause.PROGRAM)
        outcome = self._outcome(live, exit_)
        queue_ms = max(0.0, (exit_.started_at - live.queued_at) * 1000.0)
        self.teller.exited(live, outcome, exit_, queue_ms)
        if is_lost and live.lost_runs < MAX_LOST_RUNS:
            live.lost_runs += 1
            return None
        return outcome

    async def _in_slot(self, live: LiveTask, partition: Partition) -> Exit:
        """Run in a slot. What was handed ahead and is given back waits again, with its turn."""
        record, turn = live.messages[0].record, None
        owner, is_sure = record.partition, partition.guard.is_noting
        while True:
            turn = await self.slots.acquire(
                owner=owner, priority=live.priority, turn=turn, is_sure=is_sure
            )
            ran_seconds: float | None = None
            try:
                async with partition.guard.work(record.offset, live.task.id):
                    if not self.slots.is_ahead:
                        live.enter(TaskState.RUNNING)
                    exit_ = await self.executor.run(self._launch(live), partial(self._began, live))
                if exit_ is None:
                    self.slots.hold_back()
                elif exit_.exit_code is not None:
                    ran_seconds = exit_.duration_seconds
            finally:
                self.slots.release(owner, ran_seconds=ran_seconds, is_sure=is_sure)
            if exit_ is not None:
                return exit_
            if live.state is TaskState.RUNNING:
                live.enter(TaskState.QUEUED)

    def _began(self, live: LiveTask, slot: int | None, taken_at: float) -> None:
        if live.state is TaskState.QUEUED:
            live.enter(TaskState.RUNNING)
        live.slot = slot
        self.teller.started(live, taken_at)

    def _launch(self, live: LiveTask) -> Launch:
        task, config = live.task, self.config
        env = {**self.base_env, **task.env}
        env["DRAKKAR_TASK_ID"] = task.id
        env["DRAKKAR_ATTEMPT"] = str(live.attempt)
        env["DRAKKAR_CLUSTER"] = self.cluster
        traceparent = traceparent_of(live.messages[0].record)
        if traceparent is not None:
            env["TRACEPARENT"] = traceparent
        return Launch(
            argv=(self._program(task), *task.args),
            env=env,
            stdin=task.stdin,
            cwd=config.cwd,
            timeout_seconds=task.timeout_seconds or config.task_timeout_seconds,
            kill_grace_seconds=config.kill_grace_seconds,
            max_stdout_bytes=config.max_stdout_bytes,
            max_stderr_bytes=config.max_stderr_bytes,
            limits=task.limits or self.limits,
        )

    def _program(self, task: Task) -> str:
        return task.binary or self.config.binary or ""

    async def _wait_for_program(self, live: LiveTask, exit_: Exit, partition: Partition) -> None:
        """A missing program is not the message's fault: the partition parks and tries again."""
        detail = exit_.detail if self._program(live.task) else NO_PROGRAM
        self.teller.cancelled(live, f"not started: {detail}")
        partition.park(ParkingCause.PROGRAM, detail)
        live.attempt -= 1
        await self._wait_to_run_again(live, PARK_RETRY_SECONDS, partition)

    def _precomputed(self, live: LiveTask) -> TaskResult | TaskFailure:
        given = live.task.precomputed
        assert given is not None
        live.enter(TaskState.RUNNING)
        self.teller.started(live, self.clock.now())
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
        failure = None if given.exit_code == 0 else FailureKind.EXIT
        detail = f"exit code {given.exit_code}"
        self.teller.ended(live, result, failure, detail, 0.0)
        return result if failure is None else _failed(live, failure, detail, result)

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
        return (
            result if exit_.failure is None else _failed(live, exit_.failure, exit_.detail, result)
        )

    # -- judge ---------------------------------------------------------------------------------

    async def _judge(
        self, live: LiveTask, failure: TaskFailure, partition: Partition
    ) -> TaskEnd | None:
        """Ask the handler what becomes of a failed attempt; None: it runs again, from now on."""
        live.enter(TaskState.JUDGING)
        try:
            decision = await self._decision(live, failure, partition)
            check_decision(decision)
        except HookFailed as failed:
            return await self._bury(live, failure, failed.detail, partition, trace=failed.trace)
        except Exception as exc:  # noqa: BLE001 - an answer may raise anything while it is read
            return await self._bury(live, failure, f"on_error: {described(exc)}", partition)
        match decision:
            case Retry(delay_seconds=delay):
                if delay is None:
                    delay = self.backoff.delay_seconds(failure.attempt, self.chance())
                self.teller.retried(live, delay, failure.kind)
                await self._wait_to_run_again(live, delay, partition)
                return None
            case Replace(tasks=tasks):
                return await self._replace(live, failure, tasks, partition)
            case Skip():
                return TaskEnd(fate=Fate.SKIPPED, failure=failure)
            case DeadLetter(reason=reason):
                return await self._bury(live, failure, reason, partition)
        raise AssertionError(f"no decision: {decision!r}")

    async def _decision(self, live: LiveTask, failure: TaskFailure, partition: Partition) -> Any:
        is_own = type(self.handler).on_error is not Handler.on_error
        if live.task.precomputed is not None and not is_own:
            return default_decision(failure, 0)
        record = live.messages[0].record
        async with partition.guard.step(record.offset):
            return await self.hooks.call(
                self.handler.on_error, failure, topic=record.topic, partition=record.partition
            )

    async def _wait_to_run_again(
        self, live: LiveTask, seconds: float, partition: Partition
    ) -> None:
        """Wait; a drain cuts it short, or leaves the task to the heir: what only began may be begun
        anew there."""
        live.enter(TaskState.RETRYING)
        if partition.leave_task(live):
            raise asyncio.CancelledError
        if partition.hurry.is_set():
            await asyncio.sleep(min(seconds, HURRIED_SECONDS))
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await partition.hurry.wait()

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

    # -- collect, deliver ----------------------------------------------------------------------

    async def _collect(self, live: LiveTask, result: TaskResult, partition: Partition) -> TaskEnd:
        """Ask the handler what is to be delivered of a good end, and deliver it."""
        live.enter(TaskState.COLLECTING)
        began, record = self.clock.now(), live.messages[0].record
        try:
            async with partition.guard.step(record.offset):
                payloads = await self.hooks.call_list(
                    self.handler.collect, result, topic=record.topic, partition=record.partition
                )
            self.teller.collected(live, len(payloads), began)
            fate = Fate.DELIVERED
            if payloads:
                live.enter(TaskState.DELIVERING)
                pairs = self._with_origins(live, payloads)
                fate = await partition.deliveries.deliver(
                    live.messages, pairs, live.task.id, "collect"
                )
        except HookFailed as failed:
            failure = _failed(live, FailureKind.HANDLER, failed.detail, result)
            return await self._bury(
                live, failure, failed.detail, partition, stage=Stage.COLLECT, trace=failed.trace
            )
        return TaskEnd(fate=fate, result=result)

    def _with_origins(self, live: LiveTask, payloads: Sequence[Any]) -> list[tuple[Any, Origin]]:
        origins = [MessageOrigin.of(one.record, self.cluster) for one in live.messages]
        lead = origins[0] if len(origins) == 1 else Sources.of(origins).lead
        number = task_number(live.task.id)
        return [
            (payload, Origin(message=lead, n=number, hook="collect", index=index))
            for index, payload in enumerate(payloads)
        ]

    # -- other ends ----------------------------------------------------------------------------

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
        live.enter(TaskState.WITHHELD)
        await partition.deliveries.admit(live.messages)
        told = self.hooks.bounds.reason(plain_text(reason) or "")
        await self._write_letters(live, failure.kind, told, partition, stage=stage, trace=trace)
        return TaskEnd(fate=Fate.DEAD_LETTERED, failure=failure)

    async def _write_letters(
        self,
        live: LiveTask,
        kind: FailureKind,
        reason: str,
        partition: Partition,
        *,
        stage: Stage = Stage.TASK,
        trace: str = "",
    ) -> None:
        live.enter(TaskState.DEAD_LETTERING)
        cause = DeadLetterCause(
            stage=stage,
            kind=kind,
            reason=reason,
            traceback=trace,
            attempts=live.attempt,
            task_id=live.task.id,
        )
        for message in live.messages:
            await partition.deliveries.bury(message, cause)

    async def _end_cancelled(self, live: LiveTask, partition: Partition) -> TaskEnd:
        """End as an operator decided, without asking the handler. Raises CancelledError where it
        was the epoch that ended."""
        verdict = live.verdict
        self.teller.cancelled(live, verdict.reason if verdict else "epoch ended")
        if verdict is None or live.is_fenced or live.handle is None:
            raise asyncio.CancelledError
        live.handle.uncancel()
        failure = _failed(live, FailureKind.CANCELLED, verdict.reason, None)
        if isinstance(verdict, Skip):
            return TaskEnd(fate=Fate.SKIPPED, failure=failure)
        await self._write_letters(live, failure.kind, verdict.reason, partition)
        return TaskEnd(fate=Fate.DEAD_LETTERED, failure=failure)


def _failed(
    live: LiveTask, kind: FailureKind, detail: str, result: TaskResult | None
) -> TaskFailure:
    return TaskFailure(
        task=live.task, kind=kind, detail=detail, attempt=live.attempt, result=result
    )
