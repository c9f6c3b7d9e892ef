"""The attempts of a task: each waits for a slot and runs the program, or takes what is given."""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from domain.failure import FailureKind, TaskFailure
from domain.parking import ParkingCause
from domain.task import Limits, Task, TaskResult, Usage
from domain.trace_context import traceparent_of
from workers.clock import Clock
from workers.executor.base import Executor, Exit, Launch
from workers.executor.slots import Slots
from workers.pipeline.live_task import LiveTask, Phase
from workers.pipeline.task_tell import TaskTeller

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


class Parkable(Protocol):
    """Who waits while the program cannot be started."""

    hurry: asyncio.Event

    def park(self, cause: ParkingCause, detail: str) -> None: ...

    def unpark(self, cause: ParkingCause) -> None: ...

    def program(self, live: LiveTask) -> AbstractAsyncContextManager[None]: ...

    def leave_task(self, live: LiveTask) -> bool: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempts:
    """Stateless but for the slots."""

    executor: Executor
    slots: Slots
    config: ExecutorConfig
    base_env: Mapping[str, str]
    limits: Limits
    cluster: str
    clock: Clock
    teller: TaskTeller

    async def run(self, live: LiveTask, partition: Parkable) -> TaskResult | TaskFailure:
        """Run until there is an outcome to judge. Cancelled: its process is dead on return."""
        while True:
            live.attempt += 1
            if live.task.precomputed is not None:
                return self._precomputed(live)
            exit_ = await self._in_slot(live, partition)
            if exit_.spawn_errno in PROGRAM_ERRORS:
                await self._wait_for_program(live, exit_, partition)
                continue
            if live.lost_runs == 0 or exit_.failure is not FailureKind.LOST:
                partition.unpark(ParkingCause.PROGRAM)
            outcome, queue_ms = self._outcome(live, exit_), _queue_ms(live, exit_)
            self.teller.exited(live, outcome, exit_, queue_ms)
            if self._is_run_again(live, exit_):
                continue
            return outcome

    def _is_run_again(self, live: LiveTask, exit_: Exit) -> bool:
        """A task whose spawner died runs again by itself, a few times."""
        if exit_.failure is not FailureKind.LOST or live.lost_runs >= MAX_LOST_RUNS:
            return False
        live.lost_runs += 1
        requeue(live, self.clock)
        return True

    async def _in_slot(self, live: LiveTask, partition: Parkable) -> Exit:
        owner = live.messages[0].partition
        live.phase = Phase.QUEUED
        slot = await self.slots.acquire(owner=owner, priority=live.priority)
        try:
            async with partition.program(live):
                live.slot, live.phase = slot, Phase.RUNNING
                self.teller.started(live)
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
        program = self._program(task)
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

    def _program(self, task: Task) -> str:
        return task.binary or self.config.binary or ""

    async def _wait_for_program(self, live: LiveTask, exit_: Exit, partition: Parkable) -> None:
        """A missing program is not the message's fault: the partition parks and tries again."""
        detail = exit_.detail if self._program(live.task) else NO_PROGRAM
        self.teller.cancelled(live, f"not started: {detail}")
        partition.park(ParkingCause.PROGRAM, detail)
        live.attempt -= 1
        await wait_to_run_again(live, PARK_RETRY_SECONDS, partition)
        requeue(live, self.clock)

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
        self.teller.started(live)
        failure = None if given.exit_code == 0 else FailureKind.EXIT
        self.teller.ended(live, result, failure, f"exit code {given.exit_code}", 0.0)
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


async def wait_to_run_again(live: LiveTask, seconds: float, partition: Parkable) -> None:
    """Wait; a drain cuts it short. Raises CancelledError when the drain leaves the task to the
    heir: what only began may be begun anew there."""
    live.phase = Phase.RETRYING
    if partition.leave_task(live):
        raise asyncio.CancelledError
    if partition.hurry.is_set():
        await asyncio.sleep(min(seconds, HURRIED_SECONDS))
        return
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await partition.hurry.wait()


def requeue(live: LiveTask, clock: Clock) -> None:
    """It waits for a slot once more."""
    live.queued_at = clock.now()
    live.slot = None


def _queue_ms(live: LiveTask, exit_: Exit) -> float:
    return max(0.0, (exit_.started_at - live.queued_at) * 1000.0)
