"""Partitions of the moment: one worker each, from assign to the end of its epoch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Protocol

from domain.events import Assigned, Committed
from domain.message import Record
from sinks.record_writer import RecordHold
from workers.consumer.ownership import Claim, PauseReason
from workers.consumer.signals import Assignment, EndRequest
from workers.log import log
from workers.pipeline.partition import PartitionTools, PartitionWorker
from workers.pipeline.task_supervisor import TaskSupervisor


class EpochCounters(Protocol):
    """Counts of what befell epochs without being an event."""

    fenced_results: int
    """Tasks whose epoch was lost while they ran: what they gave is thrown away."""
    commit_errors: Counter[str]
    """Refused commits by the broker's code."""


class Epochs:
    """Does what the consumer thread tells of partitions. Loop thread only."""

    def __init__(
        self, children: TaskSupervisor, counters: EpochCounters, tools: PartitionTools
    ) -> None:
        self._children = children
        self._counters = counters
        self._tools = tools
        self._board, self._clock, self._tell = tools.board, tools.clock, tools.tell
        self._partitions: dict[Claim, PartitionWorker] = {}
        self._held_keys: set[str] = set()
        self._ending = 0
        self._pauses: set[PauseReason] = set()
        self.cut_short = 0
        """Epochs that ended before their work did."""

    @property
    def partitions(self) -> Mapping[Claim, PartitionWorker]:
        """Partitions of the moment."""
        return self._partitions

    @property
    def is_paused(self) -> bool:
        """Whether nothing is taken in, also of partitions that come."""
        return bool(self._pauses)

    def is_paused_for(self, reason: PauseReason) -> bool:
        """Tell whether nothing is taken in for this reason, maybe for others too."""
        return reason in self._pauses

    def pause(self, reason: PauseReason, is_wanted: bool) -> int:
        """Take nothing in for a reason, or no longer for it; how many partitions it changes."""
        (self._pauses.add if is_wanted else self._pauses.discard)(reason)
        self._board.is_resting = self.is_paused
        for partition in self._partitions.values():
            partition.set_pause(reason, is_wanted)
        return len(self._partitions)

    def note_settled(self) -> None:
        """Have each partition publish what has its fate above its watermark."""
        for partition in self._partitions.values():
            partition.note_settled()

    def hold_key(self, key: str, is_wanted: bool) -> int:
        """Give no task of a key its turn, in partitions that come as well, or again; how many tasks
        of it are unfinished."""
        (self._held_keys.add if is_wanted else self._held_keys.discard)(key)
        for partition in self._partitions.values():
            partition.keys.hold_key(key, is_wanted)
        return sum(partition.keys.count(key) for partition in self._partitions.values())

    @property
    def held_keys(self) -> frozenset[str]:
        """The keys of which no task gets its turn."""
        return frozenset(self._held_keys)

    def kill(self) -> None:
        """End everything now, at the second signal."""
        for partition in self._partitions.values():
            partition.kill()

    # -- what the consumer thread tells --------------------------------------------------------

    def assigned(self, assignments: Sequence[Assignment]) -> None:
        """New epochs begin: one new partition worker each."""
        for assignment in assignments:
            self._begin(assignment)
        self._board.keep(self._partitions.keys())
        self._children.tell_claims("on_assign", [assignment.claim for assignment in assignments])

    def _begin(self, assignment: Assignment) -> None:
        claim = assignment.claim
        partition = PartitionWorker(claim, self._tools, assignment.metadata)
        self._partitions[claim] = partition
        for reason in self._pauses:
            partition.set_pause(reason, True)
        for key in self._held_keys:
            partition.keys.hold_key(key, True)
        self._tell(
            Assigned(
                at=self._clock.wall(),
                topic=claim.topic,
                partition=claim.partition,
                offset=assignment.start_offset,
                epoch=claim.epoch,
                committed=assignment.committed,
            )
        )

    def handed_over(self, records: Mapping[Claim, Sequence[Record]]) -> None:
        """Records for their partitions; those of an ended epoch are the next owner's."""
        for claim, batch in records.items():
            partition = self._partitions.get(claim)
            if partition is not None:
                partition.hand_over(batch)
            self._board.taken_messages += len(batch)

    def ending(self, request: EndRequest) -> None:
        """End these epochs within the budget.

        The consumer thread reads no answers meanwhile: no task of another partition may hold a
        slot until one comes.
        """
        self._ending += len(request.claims)
        for partition in self._partitions.values():
            partition.guard.drain()
        for claim in request.claims:
            self._children.spawn(self._end(claim, request))

    async def _end(self, claim: Claim, request: EndRequest) -> None:
        partition = self._partitions.get(claim)
        try:
            if partition is not None:
                is_clean = await partition.end(request.deadline, request.reason.value)
                self.cut_short += not is_clean
        finally:
            self._partitions.pop(claim, None)
            request.ended(claim)
            self._ending -= 1
            if not self._ending:
                for other in self._partitions.values():
                    other.guard.resume()
            self._children.tell_claims("on_revoke", [claim])

    def lost(self, claims: Sequence[Claim]) -> None:
        """Fence first; nothing of these is delivered or committed any more."""
        for claim in claims:
            partition = self._partitions.pop(claim, None)
            if partition is not None:
                self._children.spawn(self._lose(partition))
        self._children.tell_claims("on_revoke", claims)

    async def _lose(self, partition: PartitionWorker) -> None:
        self._counters.fenced_results += partition.unfinished_attempts
        await partition.lose()
        self._board.forget(partition.claim)

    def committed(self, offsets: Mapping[Claim, int]) -> None:
        """Take the next offsets that the broker acknowledged."""
        at = self._clock.wall()
        for claim, offset in offsets.items():
            self._tell(
                Committed(
                    at=at,
                    topic=claim.topic,
                    partition=claim.partition,
                    offset=offset,
                    epoch=claim.epoch,
                )
            )

    def commit_failed(self, code: str, detail: str) -> None:
        """Count a refused commit; the consumer thread tries again."""
        self._counters.commit_errors[code] += 1
        log.warning("commit_failed", code=code, detail=detail)

    # -- what the threads of dead letters and deferrals tell ------------------------------------

    def letter_held(self, hold: RecordHold) -> None:
        """Law 5: while a dead letter or a deferred message cannot be written its partition stands;
        the rest goes on."""
        for claim, partition in self._partitions.items():
            if (claim.topic, claim.partition) != (hold.topic, hold.partition):
                continue
            if hold.is_held:
                partition.park(hold.cause, hold.detail)
            else:
                partition.unpark(hold.cause)
