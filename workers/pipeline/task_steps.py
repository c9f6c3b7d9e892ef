"""Steps of a task from top to bottom: turn, slot, run, judge, collect, deliver, end.

The states that it goes through: ``life_cycle``.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from domain.decision import MAX_REPLACE_DEPTH, DeadLetter, Replace, Retry, Skip, check_decision
from domain.failure import DeadLetterCause, FailureKind, Stage, TaskFailure
from domain.fate import Fate
from domain.origin import MessageOrigin, Origin, Sources, task_number
from domain.parking import ParkingCause
from domain.retry import Backoff, default_decision
from domain.task import Limits, Task, TaskResult, Usage, accepted
from domain.text_bounds import described, number, plain_text
from domain.trace_context import traceparent_of
from sinks.chance import chance
from workers.clock import Clock
from workers.executor.base import Executor, Exit, Launch
from workers.executor.progress import PROGRESS_FD, PROGRESS_VARIABLE
from workers.executor.slots import NO_GROUP, Slots
from workers.handler import Handler, Pending, overrides
from workers.pipeline.hooks import HookFailed, Hooks
from workers.pipeline.life_cycle import (
    LEAVING,
    WORKING,
    DeferredTask,
    LiveMessage,
    LiveTask,
    TaskEnd,
    TaskState,
)
from workers.pipeline.telling import TaskTeller

if TYPE_CHECKING:
    from workers.config import ExecutorConfig
    from workers.pipeline.partition import PartitionWorker

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
        errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EINTR, errno.ECHILD,
    }
)  # fmt: skip
"""Why a program cannot be started that is no message's fault (law 9): it is missing, its disk or
mount is ill, the machine has no process, memory or descriptor left, or (ECHILD) a persistent
process ends before it is ready for a request."""


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
    chance: Callable[[], float] = chance
    retry_in_place_seconds: float = math.inf
    """Longest wait for a retry after which a message is not deferred."""

    async def run(self, live: LiveTask) -> TaskEnd:
        """Take a task to its end. Cancelled, unless an operator decided how it ends: its process is
        dead on return."""
        try:
            try:
                end = await self._attempts(live)
            except asyncio.CancelledError:
                end = await self._end_cancelled(live)
            live.enter(TaskState.ENDED)
        except asyncio.CancelledError:
            live.enter(TaskState.LEFT)
            raise
        return end

    async def _attempts(self, live: LiveTask) -> TaskEnd:
        if live.rests_seconds is not None:
            await self._rest(live, live.rests_seconds)
            live.requeue(self.clock.now())
        if live.task.key is not None:
            await live.partition.keys.turn(live)
            live.queued_at = self.clock.now()
        while True:
            outcome = await self._attempt(live)
            if isinstance(outcome, TaskResult):
                return await self._collect(live, outcome)
            if outcome is not None and (end := await self._judge(live, outcome)):
                return end
            live.requeue(self.clock.now())

    # -- slot, run -----------------------------------------------------------------------------

    async def _attempt(self, live: LiveTask) -> TaskResult | TaskFailure | None:
        """Run once; None: it is to run again for no fault of its own."""
        live.attempt += 1
        if live.task.precomputed is not None:
            return self._precomputed(live)
        exit_ = await self._in_slot(live)
        if exit_.spawn_errno in PROGRAM_ERRORS:
            await self._wait_for_program(live, exit_)
            return None
        is_lost = exit_.failure is FailureKind.LOST
        if live.lost_runs == 0 or not is_lost:
            live.partition.unpark(ParkingCause.PROGRAM)
        outcome = self._outcome(live, exit_)
        self.teller.exited(live, exit_)
        if is_lost and live.lost_runs < MAX_LOST_RUNS:
            live.lost_runs += 1
            return None
        return outcome

    async def _in_slot(self, live: LiveTask) -> Exit:
        """Run in a slot. What was handed ahead and is given back waits again, with its turn."""
        record, turn = live.messages[0].record, None
        owner, is_sure = live.partition.claim, live.partition.guard.is_noting
        group = live.task.group or NO_GROUP
        while True:
            turn = await self.slots.acquire(
                owner=owner, priority=live.priority, group=group, turn=turn, is_sure=is_sure
            )
            ran_seconds: float | None = None
            try:
                async with live.partition.guard.work(record.offset, live.task.id):
                    if not self.slots.is_ahead:
                        live.enter(TaskState.RUNNING)
                    exit_ = await self._run(live)
                if exit_ is None:
                    self.slots.hold_back()
                elif exit_.exit_code is not None:
                    ran_seconds = exit_.duration_seconds
            finally:
                self.slots.release(owner, group=group, ran_seconds=ran_seconds, is_sure=is_sure)
            if live.verdict is not None:  # It was asked to end, by an operator, and did.
                live.cut_short = exit_
                raise asyncio.CancelledError
            if exit_ is not None:
                return exit_
            if live.state is TaskState.RUNNING:
                live.enter(TaskState.QUEUED)

    async def _run(self, live: LiveTask) -> Exit | None:
        live.is_launched = True
        try:
            return await self.executor.run(self._launch(live), _Watch(live, self.teller))
        finally:
            live.is_launched = False

    def _launch(self, live: LiveTask) -> Launch:
        task, config = live.task, self.config
        is_request = config.mode == "persistent" and task.binary is None
        env = dict(task.env) if is_request else {**self.base_env, **task.env}
        env["DRAKKAR_TASK_ID"] = task.id
        env["DRAKKAR_ATTEMPT"] = str(live.attempt)
        env["DRAKKAR_CLUSTER"] = self.cluster
        traceparent = traceparent_of(live.messages[0].record)
        if traceparent is not None:
            env["TRACEPARENT"] = traceparent
        if not is_request:  # Its process has known it from its start.
            env[PROGRESS_VARIABLE] = str(PROGRESS_FD)
        return Launch(
            task_id=task.id,
            argv=tuple(task.args) if is_request else (self._program(task), *task.args),
            env=env,
            stdin=task.stdin,
            cwd=config.cwd,
            timeout_seconds=task.timeout_seconds or config.task_timeout_seconds,
            kill_grace_seconds=config.kill_grace_seconds,
            max_stdout_bytes=config.max_stdout_bytes,
            max_stderr_bytes=config.max_stderr_bytes,
            limits=task.limits if is_request else task.limits or self.limits,
            stall_timeout_seconds=config.stall_timeout_seconds,
            is_request=is_request,
        )

    def _program(self, task: Task) -> str:
        return task.binary or self.config.binary or ""

    async def _wait_for_program(self, live: LiveTask, exit_: Exit) -> None:
        """A missing program is not the message's fault: the partition parks and tries again."""
        detail = exit_.detail if self._program(live.task) else NO_PROGRAM
        self.teller.cancelled(live, f"not started: {detail}")
        live.partition.park(ParkingCause.PROGRAM, detail)
        live.attempt -= 1
        await self._wait_to_run_again(live, PARK_RETRY_SECONDS)

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
        self.teller.precomputed(live, result, failure, detail)
        return result if failure is None else _failed(live, failure, detail, result)

    def _outcome(self, live: LiveTask, exit_: Exit) -> TaskResult | TaskFailure:
        result = self._result(live, exit_)
        if exit_.failure is None:
            return result
        return _failed(live, exit_.failure, exit_.detail, result)

    def _result(self, live: LiveTask, exit_: Exit) -> TaskResult:
        return TaskResult(
            task=live.task,
            exit_code=exit_.exit_code if exit_.exit_code is not None else -1,
            stdout=exit_.stdout,
            stderr=exit_.stderr,
            started_at=self.clock.wall_at(exit_.started_at),
            duration_seconds=exit_.duration_seconds,
            pid=exit_.pid,
            usage=exit_.usage or Usage(),
            truncated=exit_.truncated,
            attempt=live.attempt,
        )

    # -- judge ---------------------------------------------------------------------------------

    async def _judge(self, live: LiveTask, failure: TaskFailure) -> TaskEnd | None:
        """Ask the handler what becomes of a failed attempt; None: it runs again, from now on."""
        live.enter(TaskState.JUDGING)
        try:
            decision = await self._decision(live, failure)
            check_decision(decision)
        except HookFailed as failed:
            return await self._bury(live, failure, failed.detail, trace=failed.trace)
        except Exception as exc:  # noqa: BLE001 - an answer may raise anything while it is read
            return await self._bury(live, failure, f"on_error: {described(exc)}")
        match decision:
            case Retry(delay_seconds=delay):
                if delay is None:
                    delay = self.backoff.delay_seconds(failure.attempt, self.chance())
                self.teller.retried(live, delay, failure.kind)
                if delay > self.retry_in_place_seconds and live.partition.deferring.may(live):
                    return self._deferred(live, failure, delay)
                await self._wait_to_run_again(live, delay)
                return None
            case Replace(tasks=tasks):
                return await self._replace(live, failure, tasks)
            case Skip():
                return TaskEnd(fate=Fate.SKIPPED, failure=failure)
            case DeadLetter(reason=reason):
                return await self._bury(live, failure, reason)
        raise AssertionError(f"no decision: {decision!r}")

    async def _decision(self, live: LiveTask, failure: TaskFailure) -> Any:
        is_own = type(self.handler).on_error is not Handler.on_error
        if live.task.precomputed is not None and not is_own:
            return default_decision(failure, 0)
        record = live.messages[0].record
        async with live.partition.guard.step(record.offset):
            try:
                return await self.hooks.call(
                    self.handler.on_error, failure, topic=record.topic, partition=record.partition
                )
            finally:
                if live.verdict is not None:  # The hook may have swallowed its cancellation.
                    raise asyncio.CancelledError

    async def _wait_to_run_again(self, live: LiveTask, seconds: float) -> None:
        """Wait; a drain cuts it short, or leaves the task to the heir: what only began may be begun
        anew there."""
        live.enter(TaskState.RETRYING)
        if live.partition.leave_task(live):
            raise asyncio.CancelledError
        await self._rest(live, seconds)

    async def _rest(self, live: LiveTask, seconds: float) -> None:
        if live.partition.hurry.is_set():
            await asyncio.sleep(min(seconds, HURRIED_SECONDS))
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await live.partition.hurry.wait()

    def _deferred(self, live: LiveTask, failure: TaskFailure, delay_seconds: float) -> TaskEnd:
        due_at = self.clock.wall() + delay_seconds
        again = DeferredTask(task=live.task, attempt=live.attempt, due_at=due_at)
        return TaskEnd(fate=Fate.DEFERRED, failure=failure, deferred=again)

    async def _replace(
        self,
        live: LiveTask,
        failure: TaskFailure,
        tasks: Sequence[Task],
    ) -> TaskEnd:
        if live.task.id.count(".r") >= MAX_REPLACE_DEPTH:
            reason = f"a chain of {MAX_REPLACE_DEPTH} replacements did not end well"
            return await self._bury(live, failure, reason)
        numbered = [
            accepted(
                task,
                self.hooks.bounds,
                task_id=f"{live.task.id}.r{k}",
                parent_id=live.task.id,
                source_offsets=live.task.source_offsets,
                in_place_of=live.task,
            )
            for k, task in enumerate(tasks, 1)
        ]
        self.teller.replaced(live, [task.id for task in numbered])
        return TaskEnd(fate=Fate.DELIVERED, failure=failure, replaced_by=numbered)

    # -- collect, deliver ----------------------------------------------------------------------

    async def _collect(self, live: LiveTask, result: TaskResult) -> TaskEnd:
        """Ask the handler what is to be delivered of a good end, and deliver it."""
        live.enter(TaskState.COLLECTING)
        began, record = self.clock.now(), live.messages[0].record
        try:
            async with live.partition.guard.step(record.offset):
                payloads = await self.hooks.call_list(
                    self.handler.collect, result, topic=record.topic, partition=record.partition
                )
            self.teller.collected(live, len(payloads), began)
            fate = Fate.DELIVERED
            if payloads:
                live.enter(TaskState.DELIVERING)
                pairs = self._with_origins(live, payloads)
                fate = await live.partition.deliveries.deliver(
                    live.messages, pairs, live, "collect"
                )
        except HookFailed as failed:
            failure = _failed(live, FailureKind.HANDLER, failed.detail, result)
            return await self._bury(
                live, failure, failed.detail, stage=Stage.COLLECT, trace=failed.trace
            )
        return TaskEnd(fate=fate, result=result)

    def _with_origins(self, live: LiveTask, payloads: Sequence[Any]) -> list[tuple[Any, Origin]]:
        origins = [MessageOrigin.of(one.record, self.cluster) for one in live.messages]
        lead = origins[0] if len(origins) == 1 else Sources.of(origins).lead
        n = task_number(live.task.id)
        return [
            (payload, Origin(message=lead, n=n, hook="collect", index=index))
            for index, payload in enumerate(payloads)
        ]

    # -- other ends ----------------------------------------------------------------------------

    async def _bury(
        self,
        live: LiveTask,
        failure: TaskFailure,
        reason: str,
        *,
        stage: Stage = Stage.TASK,
        trace: str = "",
    ) -> TaskEnd:
        live.enter(TaskState.WITHHELD)
        await live.partition.deliveries.admit(live.messages, live)
        told = self.hooks.bounds.reason(plain_text(reason) or "")
        await self._write_letters(live, failure.kind, told, stage=stage, trace=trace)
        return TaskEnd(fate=Fate.DEAD_LETTERED, failure=failure)

    async def _write_letters(
        self,
        live: LiveTask,
        kind: FailureKind,
        reason: str,
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
            labels=live.task.labels,
        )
        for message in live.messages:
            await live.partition.deliveries.bury(message, cause)

    async def _end_cancelled(self, live: LiveTask) -> TaskEnd:
        """End as an operator decided, without asking the handler. Raises CancelledError where it
        was the epoch that ended."""
        verdict, cut_short = live.verdict, live.cut_short
        self.teller.cancelled(live, verdict.reason if verdict else "epoch ended")
        if verdict is None or live.is_fenced or live.handle is None:
            raise asyncio.CancelledError
        live.handle.uncancel()
        result = None if cut_short is None else self._result(live, cut_short)
        failure = _failed(live, FailureKind.CANCELLED, verdict.reason, result)
        if isinstance(verdict, Skip):
            return TaskEnd(fate=Fate.SKIPPED, failure=failure)
        await self._write_letters(live, failure.kind, verdict.reason)
        return TaskEnd(fate=Fate.DEAD_LETTERED, failure=failure)


class _Watch:
    """What is heard of a task's process while it runs; called among the answers about others: it
    must not raise when the epoch is over."""

    __slots__ = ("_live", "_teller")

    def __init__(self, live: LiveTask, teller: TaskTeller) -> None:
        self._live = live
        self._teller = teller

    def started(self, slot: int | None, taken_at: float, pid: int | None) -> None:
        """See ``Watcher``."""
        live = self._live
        if live.state is TaskState.QUEUED and not live.is_fenced:
            live.enter(TaskState.RUNNING)
        live.slot, live.pid = slot, pid
        self._teller.started(live, taken_at)

    def progressed(self, progress: float | None, note: str) -> None:
        """See ``Watcher``."""
        self._live.progress, self._live.note = progress, note

    def cut_short(self, ended: Exit) -> None:
        """See ``Watcher``."""
        self._live.cut_short = ended


def _failed(
    live: LiveTask, kind: FailureKind, detail: str, result: TaskResult | None
) -> TaskFailure:
    return TaskFailure(
        task=live.task, kind=kind, detail=detail, attempt=live.attempt, result=result
    )


class LiveTasks:
    """Runs each as a child of the partition, and hands on its end; of none once it is fenced."""

    def __init__(self, partition: PartitionWorker) -> None:
        self._partition = partition
        self._tools = partition.tools
        self._live: dict[str, LiveTask] = {}
        self._has_priority = overrides(self._tools.handler, "task_priority")

    def start(
        self,
        task: Task,
        messages: Sequence[LiveMessage],
        attempt: int = 0,
        rests_seconds: float | None = None,
        *,
        in_place_of: LiveTask | None = None,
    ) -> None:
        """Run a task of these messages, of which so many attempts were made, after a rest; one that
        replaces another takes its place in the order of its key."""
        live = LiveTask(
            partition=self._partition,
            task=task,
            messages=messages,
            priority=self._priority(task, messages[0]),
            queued_at=self._tools.clock.now(),
            state=TaskState.QUEUED if rests_seconds is None else TaskState.RETRYING,
            attempt=attempt,
            rests_seconds=rests_seconds,
        )
        self._live[task.id] = live
        if task.key is not None:
            self._partition.keys.join(live, in_place_of=in_place_of)
            self._partition.deliveries.joined()
        live.handle = self._partition.child(self._run(live))
        if task.key is not None:
            # Of a task that is cancelled before its first step nothing runs but this.
            live.handle.add_done_callback(partial(self._leave_order, live))

    def _leave_order(self, live: LiveTask, _: asyncio.Task[None]) -> None:
        self._partition.keys.leave(live)

    def _priority(self, task: Task, first: LiveMessage) -> float:
        """What the handler says; its age when it says nothing or no number."""
        hooks, handler = self._tools.hooks, self._tools.handler
        wanted: object = task.priority
        if self._has_priority:
            wanted = hooks.call_now(handler.task_priority, None, task)
        if wanted is not None:
            if (found := number(wanted)) is not None:
                return found
            wrong = TypeError(f"expected a number or None, got {type(wanted).__name__}")
            hooks.count_error("task_priority", wrong)
        now_ms = self._tools.clock.wall() * 1000.0
        # A record of tomorrow would wait for all of today's; one of no time (-1) is as old as now.
        born = first.record if first.deferral is None else first.deferral.origin
        return min(float(born.timestamp), now_ms) if born.timestamp >= 0 else now_ms

    async def _run(self, live: LiveTask) -> None:
        try:
            end = await self._tools.steps.run(live)
        finally:
            self._live.pop(live.task.id, None)
        self._partition.completion.task_ended(live, end)
        for task in end.replaced_by or ():
            self.start(task, live.messages, in_place_of=live)

    def has(self, task_id: str) -> bool:
        """Whether a task is unfinished here."""
        return task_id in self._live

    def get(self, task_id: str) -> LiveTask | None:
        """Return an unfinished task."""
        return self._live.get(task_id)

    def waits_for(self, task_id: str) -> str | None:
        """Return the key or group that a task waits for, in words; None: neither."""
        live = self._live.get(task_id)
        if live is None or live.state is not TaskState.QUEUED:
            return None
        slots = self._tools.steps.slots
        return self._partition.keys.reason(live) or slots.reason(live.task.group or NO_GROUP)

    def cancel(self, task_id: str, verdict: Skip | DeadLetter) -> bool:
        """Cancel an unfinished task; False when its payloads are on their way already."""
        live = self._live[task_id]
        if live.state in LEAVING:
            return False
        is_asked_again = live.verdict is not None
        live.verdict = verdict
        # A program is asked to end, and has its grace; asked again it is killed at once.
        is_asked = live.is_launched and not is_asked_again
        if not (is_asked and self._tools.steps.executor.cancel(task_id)):
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
