"""Does on the loop thread what operators ask: one case an action of ``workers.control``."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING

from domain.events import Control, Tell
from domain.parking import ParkingCause, SuspectDecision
from sinks.base import SinkError
from sinks.lane import Lane
from workers.broker.base import Start
from workers.clock import Clock
from workers.consumer.ownership import Claim, PauseReason
from workers.control import (
    Action,
    Answer,
    CancelArguments,
    Command,
    LetterArguments,
    MatchArguments,
    MoveArguments,
    PartitionArguments,
    ProbeArguments,
    SinkArguments,
    UnparkArguments,
)
from workers.pipeline.partition import PartitionWorker
from workers.runtime.cancelling import cancel_matching, verdict_of
from workers.runtime.moving import Moving, NotMoved

if TYPE_CHECKING:
    from workers.runtime.worker import Worker

Probe = Callable[[ProbeArguments], Awaitable[Answer]]
"""Runs one message without sinks and commits, for a bounded time."""
Redeliver = Callable[[LetterArguments, Mapping[str, Lane]], Awaitable[Answer]]
"""Delivers the payload of a dead letter through its lane, within a bounded time."""
SINK_TEST_SECONDS = 30.0
OWN_ENDED, NOT_PAUSED = "its own pause is ended", "it was not paused itself"


class Refused(Exception):
    """Command that cannot be obeyed; the text says why and what would help."""


class CommandExecutor:
    """Commands of one worker, done by what its own code could do at any moment."""

    def __init__(
        self, worker: Worker, *, clock: Clock, tell: Tell, probe: Probe, redeliver: Redeliver
    ) -> None:
        self._worker = worker
        self._redeliver = redeliver
        self._probe_message = probe
        self._is_probing = False
        self._clock = clock
        self._tell = tell
        self._moving = Moving(worker.membership, clock=clock, tell=tell)

    async def obey(self, command: Command) -> Answer:
        """Do it, tell it, and say what came of it. Waits until the worker has started."""
        await self._worker.has_started.wait()
        try:
            said = await self._do(command)
            answer = said if isinstance(said, Answer) else Answer(is_done=True, detail=said)
        except (Refused, NotMoved, SinkError) as exc:
            answer = Answer(is_done=False, detail=str(exc))
        self._tell(
            Control(
                at=self._clock.wall(),
                action=command.action.value,
                target=command.target,
                outcome="done" if answer.is_done else "failed",
                request=command.id,
                detail=answer.detail,
                actor=command.actor,
                reason=command.reason,
            )
        )
        return answer

    async def _do(self, command: Command) -> str | Answer:
        """Return what was done, in words. Raises Refused, NotMoved and SinkError."""
        match command.action, command.arguments:
            case Action.PAUSE_INTAKE, _:
                return f"{self._worker.pause_intake(True)} partitions rest; what was taken goes on"
            case Action.RESUME_INTAKE, _:
                return self._resume_intake()
            case Action.DRAIN, _:
                return await self._drain()
            case Action.STOP, _:
                return self._stop()
            case Action.PAUSE_PARTITION, PartitionArguments() as place:
                self._partition(place)[1].set_pause(PauseReason.OPERATOR, True)
                return "paused, also for its next owners"
            case Action.RESUME_PARTITION, PartitionArguments() as place:
                return self._resume(self._partition(place)[1])
            case Action.UNPARK_PARTITION, UnparkArguments() as place:
                return self._unpark(*self._partition(place), place)
            case Action.REWIND_PARTITION | Action.SKIP_PARTITION, MoveArguments() as place:
                return await self._moving.move(self._partition(place)[0], command, place)
            case Action.PAUSE_SINK, SinkArguments() as sink:
                self._lane(sink).pause()
                return "nothing further is delivered; what waits for it fills its share"
            case Action.RESUME_SINK, SinkArguments() as sink:
                lane = self._lane(sink)
                was_paused = lane.is_paused
                lane.resume()
                return "delivers again" if was_paused else NOT_PAUSED
            case Action.TEST_SINK, SinkArguments() as sink:
                return await self._test(self._lane(sink))
            case Action.CANCEL_TASK, CancelArguments() as task:
                return self._cancel(task)
            case Action.CANCEL_MATCHING, MatchArguments() as which:
                running = self._worker.counters.running
                return await cancel_matching(self._worker.partitions, running, which, self._clock)
            case Action.PROBE, ProbeArguments() as message:
                return await self._probe(message)
            case Action.DELIVER_LETTER, LetterArguments() as letter:
                return await self._redeliver(letter, self._worker.lanes)
        raise NotImplementedError(f"{command.action} with {command.arguments!r}")

    # -- the worker

    def _resume_intake(self) -> str:
        if self._worker.is_leaving:
            raise Refused("it is still leaving the group, Kafka does not answer: ask again later")
        if self._worker.rejoin():
            return "joining the group again"
        was_paused = self._worker.is_paused_for(PauseReason.QUIET)
        count = self._worker.pause_intake(False)
        if self._worker.is_paused_for(PauseReason.CLUSTER):
            own = OWN_ENDED if was_paused else NOT_PAUSED
            return f"{own}, but it rests on: its cluster is paused"
        return f"{count} partitions go on" if was_paused else NOT_PAUSED

    async def _drain(self) -> str:
        is_clean = await self._worker.leave()
        if not is_clean:
            raise Refused("left the group, but the drain budget was used up: tasks were cut short")
        return "drained and left the group; resume_intake joins again"

    def _stop(self) -> str:
        if self._worker.is_stopping:
            raise Refused("it is stopping already; a second command does not kill it")
        self._worker.signal()
        return "draining, then it exits"

    # -- a partition

    def _partition(self, asked: PartitionArguments) -> tuple[Claim, PartitionWorker]:
        for claim, partition in self._worker.partitions.items():
            if (claim.topic, claim.partition) == asked.owned:
                return claim, partition
        raise Refused(f"{asked.topic} {asked.partition} is not owned by this worker any more")

    def _resume(self, partition: PartitionWorker) -> str:
        was_paused = PauseReason.OPERATOR in partition.pauses_on_purpose
        partition.set_pause(PauseReason.OPERATOR, False)
        if not (left := partition.pauses_on_purpose):
            return "goes on" if was_paused else NOT_PAUSED
        of = {PauseReason.QUIET: "its worker's intake", PauseReason.CLUSTER: "its cluster"}
        what = " and ".join(of[reason] for reason in sorted(left))
        return f"{OWN_ENDED if was_paused else NOT_PAUSED}, but it rests on: {what} is paused"

    def _unpark(self, claim: Claim, partition: PartitionWorker, asked: UnparkArguments) -> str:
        causes = partition.parked_causes
        if not causes:
            raise Refused("it is not parked")
        if ParkingCause.OFFSET_OUT_OF_RANGE in causes:
            start = asked.start
            if start is None:
                raise Refused("start: expected earliest or latest, because its offset is gone")
            self._worker.restart(claim, Start.EARLIEST if start == "earliest" else Start.LATEST)
            return f"begins again from the {start} offset"
        if ParkingCause.SUSPECT in causes:
            if asked.suspect is None:
                expected = ", ".join(SuspectDecision)
                raise Refused(f"suspect: expected one of {expected}, because workers died of it")
            if not partition.decide_suspect(asked.suspect):
                raise Refused("it is given up just now: ask its next owner")
        for cause in causes:
            partition.unpark(cause, "by an operator")
        return f"goes on; was parked for {', '.join(causes)}"

    def _cancel(self, asked: CancelArguments) -> str:
        verdict = verdict_of(asked.decision)
        for partition in self._worker.partitions.values():
            if partition.has_task(asked.task_id):
                if partition.cancel_task(asked.task_id, verdict):
                    return "cancelled"
                raise Refused("it ended; its payloads are on their way")
        raise Refused("there is no such task here any more")

    async def _probe(self, message: ProbeArguments) -> Answer:
        if self._is_probing:
            raise Refused("another message is being probed; one at a time")
        self._is_probing = True
        try:
            return await self._probe_message(message)
        finally:
            self._is_probing = False

    # -- a sink

    def _lane(self, asked: SinkArguments) -> Lane:
        lane = self._worker.lanes.get(asked.sink)
        if lane is None:
            known = ", ".join(self._worker.lanes)
            raise Refused(f"sink: expected one of {known}, got {asked.sink!r}")
        return lane

    async def _test(self, lane: Lane) -> str:
        began = self._clock.now()
        try:
            async with asyncio.timeout(SINK_TEST_SECONDS):
                await lane.test()
        except TimeoutError:
            raise Refused(f"no answer within {SINK_TEST_SECONDS:g} s") from None
        return f"connected in {(self._clock.now() - began) * 1000:.0f} ms"
