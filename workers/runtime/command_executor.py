"""Obeys commands of operators on the loop thread: one method an action."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, cast

from domain.decision import DeadLetter, Skip
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
    PartitionArguments,
    ProbeArguments,
    SinkArguments,
    UnparkArguments,
)
from workers.pipeline.partition import PartitionWorker

if TYPE_CHECKING:
    from workers.runtime.worker import Worker

Probe = Callable[[ProbeArguments], Awaitable[Answer]]
"""Runs one message without sinks and commits, for a bounded time."""
Redeliver = Callable[[LetterArguments, Mapping[str, Lane]], Awaitable[Answer]]
"""Delivers the payload of a dead letter through its lane, within a bounded time."""
SINK_TEST_SECONDS = 30.0


class Refused(Exception):
    """An command cannot be obeyed; the text says why and what would help."""


class CommandExecutor:
    """One per worker. What it does is what the worker's own code could do at any moment."""

    def __init__(
        self, worker: Worker, *, clock: Clock, tell: Tell, probe: Probe, redeliver: Redeliver
    ) -> None:
        self._worker = worker
        self._redeliver = redeliver
        self._probe_message = probe
        self._is_probing = False
        self._clock = clock
        self._tell = tell
        self._by_action: dict[Action, Callable[[Command], Awaitable[str | Answer]]] = {
            Action.PAUSE_INTAKE: self._pause_intake,
            Action.RESUME_INTAKE: self._resume_intake,
            Action.DRAIN: self._drain,
            Action.STOP: self._stop,
            Action.PAUSE_PARTITION: self._pause_partition,
            Action.RESUME_PARTITION: self._resume_partition,
            Action.UNPARK_PARTITION: self._unpark,
            Action.PAUSE_SINK: self._pause_sink,
            Action.RESUME_SINK: self._resume_sink,
            Action.TEST_SINK: self._test_sink,
            Action.CANCEL_TASK: self._cancel,
            Action.PROBE: self._probe,
            Action.DELIVER_LETTER: self._deliver_letter,
        }

    async def obey(self, command: Command) -> Answer:
        """Do it, tell it, and say what came of it. Waits until the worker has started."""
        await self._worker.has_started.wait()
        try:
            said = await self._by_action[command.action](command)
            answer = said if isinstance(said, Answer) else Answer(is_done=True, detail=said)
        except (Refused, SinkError) as exc:
            answer = Answer(is_done=False, detail=str(exc))
        self._tell(
            Control(
                at=self._clock.wall(),
                action=command.action.value,
                target=command.target,
                outcome="done" if answer.is_done else "failed",
                request=command.id,
                detail=answer.detail,
            )
        )
        return answer

    # -- the worker

    async def _pause_intake(self, command: Command) -> str:
        return f"{self._worker.pause_intake(True)} partitions rest; what was taken goes on"

    async def _resume_intake(self, command: Command) -> str:
        if self._worker.is_leaving:
            raise Refused("it is still leaving the group, Kafka does not answer: ask again later")
        if self._worker.rejoin():
            return "joining the group again"
        return f"{self._worker.pause_intake(False)} partitions go on"

    async def _drain(self, command: Command) -> str:
        is_clean = await self._worker.leave()
        if not is_clean:
            raise Refused("left the group, but the drain budget was used up: tasks were cut short")
        return "drained and left the group; resume_intake joins again"

    async def _stop(self, command: Command) -> str:
        if self._worker.is_stopping:
            raise Refused("it is stopping already; a second command does not kill it")
        self._worker.signal()
        return "draining, then it exits"

    # -- a partition

    def _partition(self, command: Command) -> tuple[Claim, PartitionWorker]:
        asked = cast("PartitionArguments", command.arguments)
        for claim, partition in self._worker.partitions.items():
            if (claim.topic, claim.partition) == (asked.topic, asked.partition):
                return claim, partition
        raise Refused(f"{asked.topic} {asked.partition} is not owned by this worker any more")

    async def _pause_partition(self, command: Command) -> str:
        self._partition(command)[1].set_pause(PauseReason.OPERATOR, True)
        return "paused, also for its next owners"

    async def _resume_partition(self, command: Command) -> str:
        self._partition(command)[1].set_pause(PauseReason.OPERATOR, False)
        return "goes on"

    async def _unpark(self, command: Command) -> str:
        claim, partition = self._partition(command)
        asked, causes = cast("UnparkArguments", command.arguments), partition.parked_causes
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

    async def _cancel(self, command: Command) -> str:
        asked = cast("CancelArguments", command.arguments)
        number = int(asked.task_id.partition(":")[0])
        reason = "cancelled by an operator"
        decision = Skip(reason=reason) if asked.decision == "skip" else DeadLetter(reason=reason)
        for claim, partition in self._worker.partitions.items():
            if claim.partition == number and partition.has_task(asked.task_id):
                if partition.cancel_task(asked.task_id, decision):
                    return "cancelled"
                raise Refused("it ended; its payloads are on their way")
        raise Refused("there is no such task here any more")

    async def _probe(self, command: Command) -> Answer:
        if self._is_probing:
            raise Refused("another message is being probed; one at a time")
        self._is_probing = True
        try:
            return await self._probe_message(cast("ProbeArguments", command.arguments))
        finally:
            self._is_probing = False

    async def _deliver_letter(self, command: Command) -> Answer:
        return await self._redeliver(cast("LetterArguments", command.arguments), self._worker.lanes)

    # -- a sink

    def _lane(self, command: Command) -> Lane:
        name = cast("SinkArguments", command.arguments).sink
        lane = self._worker.lanes.get(name)
        if lane is None:
            raise Refused(f"sink: expected one of {', '.join(self._worker.lanes)}, got {name!r}")
        return lane

    async def _pause_sink(self, command: Command) -> str:
        self._lane(command).pause()
        return "nothing further is delivered; what waits for it fills its share"

    async def _resume_sink(self, command: Command) -> str:
        self._lane(command).resume()
        return "delivers again"

    async def _test_sink(self, command: Command) -> str:
        lane, began = self._lane(command), self._clock.now()
        try:
            async with asyncio.timeout(SINK_TEST_SECONDS):
                await lane.test()
        except TimeoutError:
            raise Refused(f"no answer within {SINK_TEST_SECONDS:g} s") from None
        return f"connected in {(self._clock.now() - began) * 1000:.0f} ms"
