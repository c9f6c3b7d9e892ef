"""The life of a worker: start, run, quiet, drain, stop. It owns the partitions of the moment."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import structlog

from domain.backpressure import Budget
from domain.commit import CommitMetadata
from domain.events import Assigned, Committed, Tell, WorkerStarted, WorkerStopped
from domain.message import Record
from recorder.recorder import Recorder
from recorder.runs import RunDescription
from sinks.dead_letter import DeadLetterWriter, LetterHold
from sinks.lane import Lane
from sinks.router import Router
from workers.arranging import Arranging
from workers.bridge import LoopBridge
from workers.broker.base import GroupConfigRefused, GroupProtocolUnsupported, Start
from workers.clock import Clock
from workers.config import ClusterConfig
from workers.consumer import Owner
from workers.deadline import Deadline
from workers.executor.base import Executor
from workers.executor.slots import Slots
from workers.figures import (
    Lasting,
    hook_figures,
    partition_figures,
    pool_figures,
    recorder_figures,
    rss_bytes,
    sink_figures,
)
from workers.handler import Handler
from workers.hooks import HookFailed, Hooks
from workers.hunger import reserve_of
from workers.listeners.counters import Counters
from workers.ownership import Assignment, Claim, EndRequest, PauseReason, WantedBoard
from workers.partition import PartitionWorker
from workers.partition_state import PartitionTools
from workers.periodic import PeriodicJobs
from workers.task_run import TaskRunner

TICK_SECONDS = 0.5
LIVE_SECONDS = 5.0
LAST_RESORT_SECONDS = 3.0
ABORT_SECONDS = 15.0

log = structlog.get_logger("drakkar.worker")


class WorkerState(StrEnum):
    """The life cycle of a run (SPEC section 9)."""

    STARTING = "starting"
    READY = "ready"
    PAUSED = "paused"
    DRAINING = "draining"
    STOPPED = "stopped"


RESTING_OR_READY = (WorkerState.STARTING, WorkerState.READY, WorkerState.PAUSED)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerParts:
    """What a worker is composed of; made by ``workers.build``."""

    config: ClusterConfig
    run: RunDescription
    handler: Handler[Any]
    hooks: Hooks
    arranging: Arranging
    runner: TaskRunner
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


class Worker:
    """Runs until a signal or a failure. All methods run on the loop thread but ``snapshot``."""

    BAD_CONFIG = 2

    def __init__(self, parts: WorkerParts) -> None:
        self._parts = parts
        self._partitions: dict[Claim, PartitionWorker] = {}
        self._owner: Owner | None = None
        self._make_owner: Callable[[], Owner] | None = None
        self._is_intake_paused = False
        self._has_left = False
        self.has_started = asyncio.Event()
        """Set once lanes and consumer run: orders may be obeyed."""
        self._group: asyncio.TaskGroup | None = None
        self._tools: PartitionTools | None = None
        self._deadline: Deadline | None = None
        self._stopping = asyncio.Event()
        self._owner_stopped = asyncio.Event()
        self._fatal: BaseException | None = None
        self._failed = asyncio.Event()
        self._is_aborting = False
        self._is_clean = True
        self._was_cut = False
        self._protocol: str | None = None
        self._kafka_waits: str | None = "the consumer group to join"
        self._idle: str | None = None
        self._is_ready = False
        self._told_waiting: str | None = None
        self._ticked_at = parts.clock.now()
        self._loop_lag_seconds = 0.0
        self._lasting = Lasting()
        self._snapshot: dict[str, Any] = {}
        self.state = WorkerState.STARTING
        self._take_snapshot()

    @property
    def counters(self) -> Counters:
        """The figures counted from events."""
        return self._parts.counters

    @property
    def clock(self) -> Clock:
        """The worker's one clock."""
        return self._parts.clock

    @property
    def tell(self) -> Tell:
        """Where its events go."""
        return self._parts.tell

    @property
    def executor(self) -> Executor:
        """The executor; started before ``run``."""
        return self._parts.executor

    @property
    def is_stopping(self) -> bool:
        """Whether the first signal came."""
        return self._stopping.is_set()

    # -- life ----------------------------------------------------------------------------------

    def attach(self, make_owner: Callable[[], Owner]) -> None:
        """Who makes the owner thread's object: it reports to the worker, and a worker that left
        its group joins again with a new one."""
        self._make_owner = make_owner

    def listener(self, loop: asyncio.AbstractEventLoop) -> LoopBridge:
        """What the owner thread tells goes through this."""
        return LoopBridge(loop, self)

    async def run(self) -> int:
        """Run to the end; the exit code: 0 after a clean drain, 2 when the broker refuses the
        group's configuration, else 1."""
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                try:
                    await self._work(group)
                except BaseException:
                    self._abort()
                    raise
        except* Exception as failures:
            self._is_clean = False
            for failure in failures.exceptions:
                log.error("worker_failed", error=str(failure), exc_info=failure)
        finally:
            await self._close()
        if isinstance(self._fatal, GroupConfigRefused | GroupProtocolUnsupported):
            return self.BAD_CONFIG
        return 0 if self._is_clean else 1

    async def _work(self, group: asyncio.TaskGroup) -> None:
        ticking = group.create_task(self._tick_for_ever())
        watching = group.create_task(self._raise_fatal())
        await self._start(group)
        jobs = group.create_task(self._parts.periodic.run())
        await self._stopping.wait()
        jobs.cancel()
        await self._drain()
        ticking.cancel()
        watching.cancel()

    def _abort(self) -> None:
        """A failure ends the worker: its group goes on without it at once, and nothing hangs."""
        self._is_aborting = True
        if self._owner is not None:
            self._owner.kill()
        self._parts.last_resort(ABORT_SECONDS)

    async def _start(self, group: asyncio.TaskGroup) -> None:
        parts = self._parts
        self._tools = PartitionTools(
            cluster=parts.run.cluster,
            handler=parts.handler,
            hooks=parts.hooks,
            arranging=parts.arranging,
            runner=parts.runner,
            router=parts.router,
            dead_letters=parts.dead_letters,
            board=parts.board,
            budget=parts.budget,
            clock=parts.clock,
            tell=parts.tell,
            spawn=group.create_task,
            max_batch_messages=parts.config.batch.max_messages,
            batch_linger_seconds=parts.config.batch.linger_ms / 1000.0,
        )
        self._tell_started()
        await parts.hooks.call(parts.handler.on_startup)
        for lane in parts.lanes.values():
            lane.start()
        parts.dead_letters.start(asyncio.get_running_loop())
        self._join()
        self.has_started.set()

    def _join(self) -> None:
        assert self._make_owner is not None
        self._owner_stopped.clear()
        self._owner = self._make_owner()
        self._owner.start()

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
            self._stopping.set()
            return
        log.warning("killed_by_second_signal")
        self._deadline.expire_now()
        self._is_clean = False
        if self._owner is not None:
            self._owner.kill()
        for partition in self._partitions.values():
            partition.kill()
        self._parts.last_resort(LAST_RESORT_SECONDS)

    def fail(self, error: BaseException) -> None:
        """Something the worker cannot work without is gone: end, exit code 1."""
        self._fatal = error
        self._failed.set()

    async def _raise_fatal(self) -> None:
        await self._failed.wait()
        assert self._fatal is not None
        raise self._fatal

    async def _drain(self) -> None:
        assert self._owner is not None
        assert self._deadline is not None
        self._owner.request_stop(self._deadline.remaining_seconds())
        try:
            async with asyncio.timeout(self._deadline.remaining_seconds() + 1.0):
                await self._owner_stopped.wait()
        except TimeoutError:
            self._is_clean = False
            log.warning("kafka_did_not_close", detail="the drain budget is used up")
        try:
            async with asyncio.timeout(max(1.0, self._deadline.remaining_seconds())):
                await self._hook("on_shutdown")
        except TimeoutError:
            log.warning("hook_failed", hook="on_shutdown", detail="the drain budget is used up")

    async def _close(self) -> None:
        """Release everything; past the deadline nothing of it may take long."""
        parts, deadline = self._parts, self._deadline or Deadline(LAST_RESORT_SECONDS)
        await self._release("executor", parts.executor.close())
        left = max(0.5, deadline.remaining_seconds())
        await asyncio.gather(
            *(self._release(f"sink {name}", lane.close(left)) for name, lane in parts.lanes.items())
        )
        left = max(0.5, deadline.remaining_seconds())
        letters = asyncio.to_thread(parts.dead_letters.close, left)
        await self._release("dead letters", letters)
        reason = "signal" if self._fatal is None else f"failed: {self._fatal}"
        self.state = WorkerState.STOPPED
        parts.tell(WorkerStopped(at=parts.clock.wall(), clean=self._is_clean, reason=reason))
        self._take_snapshot()
        if parts.recorder is not None:
            await asyncio.to_thread(parts.recorder.close, max(1.0, deadline.remaining_seconds()))
        self._take_snapshot()

    async def _release(self, name: str, closing: Awaitable[object]) -> None:
        """Close one part; whatever that does, the others are closed too."""
        try:
            await closing
        except Exception as exc:
            self._is_clean = False
            log.error("close_failed", part=name, error=str(exc), exc_info=exc)

    # -- what operators ask ---------------------------------------------------------------------

    @property
    def partitions(self) -> Mapping[Claim, PartitionWorker]:
        """The partitions of the moment."""
        return self._partitions

    @property
    def lanes(self) -> Mapping[str, Lane]:
        """The sinks' lanes by name."""
        return self._parts.lanes

    def pause_intake(self, is_wanted: bool) -> int:
        """Take nothing in, or go on, as a member of the group; how many partitions it changes."""
        self._is_intake_paused = is_wanted
        for partition in self._partitions.values():
            partition.set_pause(PauseReason.QUIET, is_wanted)
        self._judge_readiness()
        return len(self._partitions)

    async def leave(self) -> bool:
        """Drain, leave the group and stay up; True when nothing was cut short."""
        assert self._owner is not None
        budget = self._parts.config.drain_timeout_seconds
        self.state = WorkerState.DRAINING
        self._was_cut = False
        self._owner.request_stop(budget)
        try:
            async with asyncio.timeout(budget + 1.0):
                await self._owner_stopped.wait()
        except TimeoutError:
            self._was_cut = True
        self._has_left = True
        self._kafka_waits = "an operator to have it join again (resume_intake)"
        if not self.is_stopping:
            self.state = WorkerState.PAUSED
        return not self._was_cut

    @property
    def is_leaving(self) -> bool:
        """Whether the consumer that left has not closed yet: none may follow it before."""
        return self._has_left and not self._owner_stopped.is_set()

    def rejoin(self) -> bool:
        """Join the group again after ``leave``; False when it is a member."""
        if not self._has_left:
            return False
        self._has_left = self._is_intake_paused = False
        self._kafka_waits = "the consumer group to join"
        self.state = WorkerState.STARTING
        self._join()
        return True

    def restart(self, claim: Claim, start: Start) -> None:
        """End the epoch of a partition and begin another from there."""
        assert self._owner is not None
        self._owner.restart(claim, start)

    # -- what the owner thread tells -------------------------------------------------------------

    def joined(self, protocol: str) -> None:
        """The group protocol in force."""
        self._protocol = protocol
        self._kafka_waits = None
        log.info("joined", group=self._parts.config.kafka.group, protocol=protocol)

    def waiting(self, detail: str | None) -> None:
        """For what the consumer waits, or None."""
        self._kafka_waits = detail

    def idle(self, detail: str | None) -> None:
        """The group gives this member nothing; that keeps no worker from being ready."""
        self._idle = None if detail is None else f"kafka: {detail}"

    def assigned(self, assignments: Sequence[Assignment]) -> None:
        """New epochs begin: one new partition worker each."""
        assert self._tools is not None
        for assignment in assignments:
            claim = assignment.claim
            partition = PartitionWorker(claim, self._tools, self._legacy(assignment))
            self._partitions[claim] = partition
            if self._is_intake_paused:
                partition.set_pause(PauseReason.QUIET, True)
            self._parts.tell(
                Assigned(
                    at=self._parts.clock.wall(),
                    topic=claim.topic,
                    partition=claim.partition,
                    offset=assignment.start_offset if assignment.start_offset is not None else -1,
                    epoch=claim.epoch,
                    committed=assignment.committed,
                )
            )
        self._call_soon("on_assign", [assignment.claim for assignment in assignments])

    def _legacy(self, assignment: Assignment) -> CommitMetadata:
        former = CommitMetadata.decode(assignment.metadata)
        return CommitMetadata.inherit(former, str(self._parts.run.id))

    def handed_over(self, records: Mapping[Claim, Sequence[Record]]) -> None:
        """Records for their partitions; those of an ended epoch are the next owner's."""
        for claim, batch in records.items():
            partition = self._partitions.get(claim)
            if partition is not None:
                partition.hand_over(batch)
            self._parts.board.taken_messages += len(batch)

    def ending(self, request: EndRequest) -> None:
        """End these epochs within the budget."""
        for claim in request.claims:
            self._spawn(self._end(claim, request))

    async def _end(self, claim: Claim, request: EndRequest) -> None:
        partition = self._partitions.get(claim)
        try:
            if partition is not None:
                is_clean = await partition.end(request.deadline, request.reason.value)
                self._was_cut = self._was_cut or not is_clean
                self._is_clean = self._is_clean and (is_clean or not self._stopping.is_set())
        finally:
            self._partitions.pop(claim, None)
            request.ended(claim)
            self._call_soon("on_revoke", [claim])

    def lost(self, claims: Sequence[Claim]) -> None:
        """Fence first; nothing of these is delivered or committed any more."""
        for claim in claims:
            partition = self._partitions.pop(claim, None)
            if partition is not None:
                self._spawn(self._lose(partition))
        self._call_soon("on_revoke", claims)

    async def _lose(self, partition: PartitionWorker) -> None:
        self._parts.counters.fenced_results += partition.unfinished_attempts
        await partition.lose()

    def committed(self, offsets: Mapping[Claim, int]) -> None:
        """The broker acknowledged these next offsets."""
        at = self._parts.clock.wall()
        for claim, offset in offsets.items():
            self._parts.tell(
                Committed(
                    at=at,
                    topic=claim.topic,
                    partition=claim.partition,
                    offset=offset,
                    epoch=claim.epoch,
                )
            )

    def commit_failed(self, code: str, detail: str) -> None:
        """A commit was refused; the owner tries again."""
        self._parts.counters.commit_errors[code] += 1
        log.warning("commit_failed", code=code, detail=detail)

    def marked(self, claim: Claim, offset: int) -> None:
        """The group has the mark of a message under the crash guard."""
        partition = self._partitions.get(claim)
        if partition is not None:
            partition.marked(offset)

    def stalled(self, claim: Claim, position: int, end_offset: int) -> None:
        """The client read nothing for long though there is more; it was told to seek."""
        partition = self._partitions.get(claim)
        if partition is not None:
            partition.stalled(position, end_offset)

    def out_of_range(self, claim: Claim, detail: str) -> None:
        """The partition waits for an operator."""
        partition = self._partitions.get(claim)
        if partition is not None:
            partition.park("offset_out_of_range", detail, retried=False)

    def stopped(self) -> None:
        """The owner thread has closed the consumer."""
        self._owner_stopped.set()

    def failed(self, error: BaseException) -> None:
        """The owner thread died."""
        self.fail(error)

    def letter_held(self, hold: LetterHold) -> None:
        """Law 5: while a dead letter cannot be written its partition stands; the rest goes on."""
        for claim, partition in self._partitions.items():
            if (claim.topic, claim.partition) != (hold.topic, hold.partition):
                continue
            if hold.is_held:
                partition.park(hold.cause, hold.detail)
            else:
                partition.unpark(hold.cause)

    # -- ticks and figures -----------------------------------------------------------------------

    async def _tick_for_ever(self) -> None:
        clock = self._parts.clock
        while True:
            began = clock.now()
            await asyncio.sleep(TICK_SECONDS)
            self._ticked_at = clock.now()
            self._loop_lag_seconds = max(0.0, self._ticked_at - began - TICK_SECONDS)
            self._judge_readiness()
            self._take_snapshot()

    def _judge_readiness(self) -> None:
        waiting = self.hindrance()
        told = "; ".join(each for each in (waiting, self._idle) if each) or None
        if told != self._told_waiting:
            self._told_waiting = told
            log.info("waiting" if told else "ready", waiting_for=told or "")
        if waiting is None and self.state in RESTING_OR_READY:
            paused = self._is_intake_paused
            self.state = WorkerState.PAUSED if paused else WorkerState.READY
        if waiting is None and not self._is_ready:
            self._is_ready = True
            self._spawn(self._hook("on_ready"))

    def hindrance(self) -> str | None:
        """What keeps the worker from being ready, or None. An open breaker does not."""
        waits = [] if self._kafka_waits is None else [f"kafka: {self._kafka_waits}"]
        for name, lane in self._parts.lanes.items():
            if not lane.is_opened:
                waits.append(f"sink {name}: {lane.waiting_for or 'opening'}")
        recorder = self._parts.recorder
        if recorder is not None and not recorder.figures().is_connected:
            waits.append("postgres: the recorder is not connected; events are kept on disk")
        return "; ".join(waits) or None

    def live_problem(self) -> str | None:
        """For ``/healthz``: whether the loop ticked of late. Any thread."""
        age = self._parts.clock.now() - self._ticked_at
        return None if age < LIVE_SECONDS else f"the loop has not ticked for {age:.1f} s"

    def ready_problem(self) -> str | None:
        """For ``/readyz``. Any thread."""
        if self.state not in (WorkerState.READY, WorkerState.PAUSED) or self._has_left:
            return f"{self.state.value}: {self._told_waiting or 'not ready'}"
        return self.live_problem()

    def snapshot(self) -> dict[str, Any]:
        """All figures of about half a second ago, replaced as a whole. Any thread."""
        return self._snapshot

    def _take_snapshot(self) -> None:
        parts = self._parts
        known = self._owner.figures() if self._owner is not None else {}
        is_started = self._tools is not None
        is_idle = self.state is WorkerState.READY and self._told_waiting is not None
        condition = "waiting" if is_idle else self.state.value
        self._snapshot = {
            "version": parts.run.version,
            "state": self.state.value,
            "waiting_for": self._told_waiting or "",
            "state_since": self._lasting.since(condition, parts.clock.wall()),
            "rss_bytes": rss_bytes(),
            "counters": parts.counters.snapshot(),
            "latency": parts.counters.latency(),
            "pool": pool_figures(parts.slots) | {"running": parts.counters.running_tasks()},
            "partitions": partition_figures(self._partitions, known),
            "sinks": [sink_figures(*lane) for lane in parts.lanes.items() if is_started],
            "recorder": recorder_figures(parts.recorder),
            "queued_bytes": parts.budget.bytes,
            "is_full": float(parts.board.room_messages <= reserve_of(parts.board.most_messages)),
            "loop_lag_seconds": self._loop_lag_seconds,
            "hooks": hook_figures(parts.hooks.figures),
        }

    # -- small things ----------------------------------------------------------------------------

    def _spawn(self, coroutine: Any) -> None:
        assert self._group is not None
        if self._is_aborting:
            coroutine.close()
            return
        self._group.create_task(coroutine)

    def _call_soon(self, hook: str, claims: Sequence[Claim]) -> None:
        if claims and self._group is not None and not self._failed.is_set():
            partitions = [(claim.topic, claim.partition) for claim in claims]
            self._spawn(self._hook(hook, partitions))

    async def _hook(self, name: str, *args: Any) -> None:
        try:
            await self._parts.hooks.call(getattr(self._parts.handler, name), *args)
        except HookFailed as failed:
            log.warning("hook_failed", hook=failed.hook, detail=failed.detail)
