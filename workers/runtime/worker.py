"""Life of a worker: start, run, quiet, drain, stop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from enum import StrEnum

from domain.events import (
    ConfigChanged,
    Control,
    Tell,
    VersionChanged,
    WorkerStarted,
    WorkerStopped,
)
from sinks.lane import Lane
from workers.broker.base import GroupConfigRefused, GroupProtocolUnsupported, Start
from workers.clock import Clock, Deadline
from workers.consumer.ownership import Claim, PauseReason
from workers.control import PAUSED_BY, RESUMED_BY, Asked, ClusterPauses, Subject
from workers.executor.base import Executor
from workers.log import log
from workers.pipeline.partition import PartitionWorker
from workers.runtime.figures import StateTimer, WorkerFigures, worker_figures
from workers.runtime.listeners.counters import Counters
from workers.runtime.membership import Membership
from workers.runtime.readiness import Pulse, Readiness
from workers.runtime.thread_names import ThreadNames
from workers.runtime.uncaught import UncaughtErrors
from workers.runtime.worker_parts import WorkerParts

LAST_RESORT_SECONDS = 3.0
ABORT_SECONDS = 15.0
LEAST_CLOSING_SECONDS = 0.5
"""Seconds that a part has to close, also past the deadline."""


class WorkerState(StrEnum):
    """Life cycle of a run, as its heartbeats tell it."""

    STARTING = "starting"
    READY = "ready"
    PAUSED = "paused"
    DRAINING = "draining"
    STOPPED = "stopped"


HELD = {
    Subject.CLUSTER: "nothing further is taken in",
    Subject.GROUP: "no task of it is started",
    Subject.KEY: "no task of it is started",
}
FREED = {
    Subject.CLUSTER: "messages are taken in again",
    Subject.GROUP: "its tasks are started again",
    Subject.KEY: "its tasks are started again",
}
"""What a pause of a whole cluster, and its end, do at one worker."""
RESTING_OR_READY = (WorkerState.STARTING, WorkerState.READY, WorkerState.PAUSED)


class Worker:
    """Runs until a signal or a failure. All methods run on the loop thread but ``figures``."""

    BAD_CONFIG = 2

    def __init__(self, parts: WorkerParts) -> None:
        self._parts = parts
        self._pulse = Pulse(parts.clock)
        self._readiness = Readiness(parts.membership, parts.lanes, parts.recorder)
        self._deadline: Deadline | None = None
        self._stopping = asyncio.Event()
        self._is_clean = True
        self._cut_before_stop = 0
        self._was_ready = False
        self._state_timer = StateTimer()
        self._thread_names = ThreadNames()
        self.has_started = asyncio.Event()
        """Set once lanes and consumer run: orders may be obeyed."""
        self.state = WorkerState.STARTING
        self._take_figures()

    @property
    def counters(self) -> Counters:
        """Figures counted from events."""
        return self._parts.counters

    @property
    def clock(self) -> Clock:
        """Clock of the worker."""
        return self._parts.clock

    @property
    def tell(self) -> Tell:
        """Way of its events."""
        return self._parts.tell

    @property
    def executor(self) -> Executor:
        """Executor, started before ``run``."""
        return self._parts.executor

    @property
    def is_stopping(self) -> bool:
        """Tell whether the first signal came."""
        return self._stopping.is_set()

    # -- life ----------------------------------------------------------------------------------

    async def run(self) -> int:
        """Run to the end; the exit code: 0 after a clean drain, 2 when the broker refuses the
        group's configuration, else 1."""
        uncaught = UncaughtErrors(asyncio.get_running_loop(), self.counters, self.fail)
        with uncaught.heard():
            return await self._run()

    async def _run(self) -> int:
        try:
            async with asyncio.TaskGroup() as group:
                self._parts.children.open(group)
                try:
                    await self._work(group)
                except BaseException:
                    self._is_clean = False
                    self._abort()
                    raise
        except* Exception as failures:
            self._is_clean = False
            for failure in failures.exceptions:
                log.error("worker_failed", error=str(failure), exc_info=failure)
                self._parts.children.fail(failure)
        finally:
            await self._close()
        if isinstance(self._parts.children.failure, GroupConfigRefused | GroupProtocolUnsupported):
            return self.BAD_CONFIG
        return 0 if self._has_ended_well else 1

    async def _work(self, group: asyncio.TaskGroup) -> None:
        ticking = group.create_task(self._tick_for_ever())
        watching = group.create_task(self._parts.children.raise_failure())
        await self._start(group)
        jobs = group.create_task(self._parts.periodic.run())
        await self._stopping.wait()
        jobs.cancel()
        await self._drain()
        ticking.cancel()
        watching.cancel()

    def _abort(self) -> None:
        """End by a failure: the group goes on without the worker at once, and nothing hangs."""
        self._parts.children.abort()
        self._parts.membership.kill()
        self._parts.last_resort(ABORT_SECONDS)

    async def _start(self, group: asyncio.TaskGroup) -> None:
        parts = self._parts
        self._tell_started()
        await parts.hooks.call(parts.handler.on_startup)
        for lane in parts.lanes.values():
            lane.start()
        parts.dead_letters.start(asyncio.get_running_loop())
        if parts.retries is not None:
            parts.retries.start(asyncio.get_running_loop())
        parts.membership.join()
        self.has_started.set()

    def _tell_started(self) -> None:
        run = self._parts.run
        self._parts.tell(
            WorkerStarted(
                at=self._parts.clock.wall(),
                cluster=run.cluster,
                worker=run.worker,
                host=run.host,
                pid=run.pid,
                version=run.version,
                isolation=self._parts.executor.isolation,
                launcher=self._parts.executor.launcher,
                cgroups=self._parts.executor.cgroups,
                handler_version=run.handler_version,
                program_version=run.program_version,
            )
        )
        self._tell_changes()

    def _tell_changes(self) -> None:
        run, changes = self._parts.run, self._parts.changes
        for cls, changed in ((VersionChanged, changes.versions), (ConfigChanged, changes.config)):
            if changed:
                self._parts.tell(
                    cls(
                        at=self._parts.clock.wall(),
                        cluster=run.cluster,
                        worker=run.worker,
                        run_before=str(changes.run_before),
                        deployed_by=run.deployed_by,
                        changes=[change.document() for change in changed],
                    )
                )

    def signal(self) -> None:
        """First: quiet and drain within the budget. Second: kill at once."""
        if self._deadline is None:
            budget = self._parts.config.drain_timeout_seconds
            self._deadline = Deadline(budget)
            self._parts.last_resort(budget + LAST_RESORT_SECONDS)
            self.state = WorkerState.DRAINING
            log.info("draining", budget_seconds=budget)
            self._cut_before_stop = self._parts.epochs.cut_short
            self._stopping.set()
            return
        log.warning("killed_by_second_signal")
        self._deadline.expire_now()
        self._is_clean = False
        # In this order: the consumer thread reads what each partition leaves to its next owner.
        self._parts.epochs.kill()
        self._parts.membership.kill()
        self._parts.last_resort(LAST_RESORT_SECONDS)

    def fail(self, error: BaseException) -> None:
        """Something the worker cannot work without is gone: end, exit code 1."""
        self._parts.children.fail(error)

    async def _drain(self) -> None:
        assert self._deadline is not None
        if not await self._parts.membership.close(self._deadline.remaining_seconds()):
            self._is_clean = False
        try:
            async with asyncio.timeout(max(1.0, self._deadline.remaining_seconds())):
                await self._parts.children.hook("on_shutdown")
        except TimeoutError:
            log.warning("hook_failed", hook="on_shutdown", detail="the drain budget is used up")

    @property
    def _has_ended_well(self) -> bool:
        """Epochs cut short count from the first signal on."""
        is_cut = self.is_stopping and self._parts.epochs.cut_short > self._cut_before_stop
        return self._is_clean and not is_cut and self._parts.children.failure is None

    async def _close(self) -> None:
        """Release everything; past the deadline nothing of it may take long."""
        parts, deadline = self._parts, self._deadline or Deadline(LAST_RESORT_SECONDS)
        self._is_clean = await _close_parts(parts, deadline) and self._is_clean
        failure = parts.children.failure
        reason = "signal" if failure is None else f"failed: {failure}"
        self.state = WorkerState.STOPPED
        parts.tell(WorkerStopped(at=parts.clock.wall(), clean=self._has_ended_well, reason=reason))
        self._take_figures()
        if parts.recorder is not None:
            await asyncio.to_thread(parts.recorder.close, max(1.0, deadline.remaining_seconds()))
        self._take_figures()

    # -- what operators ask ---------------------------------------------------------------------

    @property
    def partitions(self) -> Mapping[Claim, PartitionWorker]:
        """Partitions of the moment."""
        return self._parts.epochs.partitions

    @property
    def lanes(self) -> Mapping[str, Lane]:
        """Lanes of the sinks by name."""
        return self._parts.lanes

    def pause_intake(self, is_wanted: bool) -> int:
        """Take nothing in, or go on, as a member of the group; how many partitions it changes."""
        count = self._parts.epochs.pause(PauseReason.QUIET, is_wanted)
        self._judge_readiness()
        return count

    def is_paused_for(self, reason: PauseReason) -> bool:
        """Tell whether it takes nothing in for this reason, maybe for others too."""
        return self._parts.epochs.is_paused_for(reason)

    def rest(self, pauses: ClusterPauses) -> None:
        """Rest as is wanted of all workers of the cluster, from now on."""
        epochs, slots = self._parts.epochs, self._parts.slots
        if epochs.is_paused_for(PauseReason.CLUSTER) != pauses.is_paused:
            self._tell_rest(Subject.CLUSTER, "", pauses.is_paused, pauses)
        epochs.pause(PauseReason.CLUSTER, pauses.is_paused)
        for group in sorted(slots.held_groups ^ pauses.groups):
            slots.hold_group(group, group in pauses.groups)
            self._tell_rest(Subject.GROUP, group, group in pauses.groups, pauses)
        for key in sorted(epochs.held_keys ^ pauses.keys):
            epochs.hold_key(key, key in pauses.keys)
            self._tell_rest(Subject.KEY, key, key in pauses.keys, pauses)
        self._judge_readiness()

    def _tell_rest(self, of: Subject, name: str, is_held: bool, pauses: ClusterPauses) -> None:
        begun = {each: action for action, each in (PAUSED_BY if is_held else RESUMED_BY).items()}
        asked = pauses.asked.get((of, name), Asked())
        self._parts.tell(
            Control(
                at=self._parts.clock.wall(),
                action=begun[of].value,
                target=name,
                outcome="done",
                request=asked.request,
                detail=(HELD if is_held else FREED)[of],
                actor=asked.actor,
                reason=asked.reason,
            )
        )

    async def leave(self) -> bool:
        """Drain, leave the group and stay up; True when nothing was cut short."""
        epochs = self._parts.epochs
        self.state, cut_before = WorkerState.DRAINING, epochs.cut_short
        is_closed = await self._parts.membership.leave(self._parts.config.drain_timeout_seconds)
        if not self.is_stopping:
            self.state = WorkerState.PAUSED
        return is_closed and epochs.cut_short == cut_before

    @property
    def is_leaving(self) -> bool:
        """Tell whether the consumer that left has not closed yet: none may follow it before."""
        return self._parts.membership.is_leaving

    def rejoin(self) -> bool:
        """Join the group again after ``leave``; False when it is a member."""
        if not self._parts.membership.has_left:
            return False
        self._parts.epochs.pause(PauseReason.QUIET, False)
        self.state = WorkerState.STARTING
        self._parts.membership.rejoin()
        return True

    def restart(self, claim: Claim, start: Start) -> None:
        """End the epoch of a partition and begin another from there."""
        self._parts.membership.restart(claim, start)

    @property
    def membership(self) -> Membership:
        """Its place in the consumer group."""
        return self._parts.membership

    # -- ticks and figures -----------------------------------------------------------------------

    async def _tick_for_ever(self) -> None:
        while True:
            await self._pulse.tick()
            self._thread_names.show()
            self._parts.epochs.note_settled()
            self._judge_readiness()
            self._parts.hooks.tell_lasting()
            self._take_figures()

    def _judge_readiness(self) -> None:
        if not self._readiness.look():
            return
        if self.state in RESTING_OR_READY:
            is_paused = self._parts.epochs.is_paused
            self.state = WorkerState.PAUSED if is_paused else WorkerState.READY
        if not self._was_ready:
            self._was_ready = True
            self._parts.children.spawn(self._parts.children.hook("on_ready"))

    def live_problem(self) -> str | None:
        """Tell what is wrong for ``/healthz``: the loop has not ticked of late. Any thread."""
        return self._pulse.problem()

    def ready_problem(self) -> str | None:
        """Tell what is wrong for ``/readyz``; None: it is ready. Any thread."""
        is_up = self.state in (WorkerState.READY, WorkerState.PAUSED)
        if not is_up or self._parts.membership.has_left:
            return f"{self.state.value}: {self._readiness.waiting_for or 'not ready'}"
        return self.live_problem()

    def figures(self) -> WorkerFigures:
        """Return all figures of about half a second ago, replaced as a whole. Any thread."""
        return self._figures

    def _take_figures(self) -> None:
        waiting_for = self._readiness.waiting_for
        is_idle = self.state is WorkerState.READY and waiting_for is not None
        condition = "waiting" if is_idle else self.state.value
        self._figures = worker_figures(
            self._parts,
            state=self.state.value,
            waiting_for=waiting_for or "",
            state_since=self._state_timer.since(condition, self._parts.clock.wall()),
            loop_lag_seconds=self._pulse.lag_seconds,
        )


async def _close_parts(parts: WorkerParts, deadline: Deadline) -> bool:
    """Close executor, sinks and letters, whatever one does; True when nothing raised."""
    is_clean = await _close("executor", parts.executor.close())
    left = max(LEAST_CLOSING_SECONDS, deadline.remaining_seconds())
    closed = await asyncio.gather(
        *(_close(f"sink {name}", lane.close(left)) for name, lane in parts.lanes.items())
    )
    left = max(LEAST_CLOSING_SECONDS, deadline.remaining_seconds())
    if parts.retries is not None:
        retries = asyncio.to_thread(parts.retries.close, left)
        is_clean = await _close("deferrals", retries) and is_clean
    letters = asyncio.to_thread(parts.dead_letters.close, left)
    return await _close("dead letters", letters) and is_clean and all(closed)


async def _close(name: str, closing: Awaitable[object]) -> bool:
    try:
        await closing
    except Exception as exc:
        log.error("close_failed", part=name, error=str(exc), exc_info=exc)
        return False
    return True
