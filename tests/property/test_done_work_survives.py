"""Owners die at any moment; whoever comes next passes over what had its fate, and over nothing
else."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, cast

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from domain.commit import CommitMetadata
from domain.fate import Fate
from domain.offsets import OffsetTracker
from domain.settled import PassedOver, Ranges, ranges_of, shortened
from workers.broker.base import Broker, CommitOutcome, CommittedOffset, TopicPartition
from workers.consumer.claims import Claims, ConsumerParts
from workers.consumer.commits import Commits
from workers.consumer.ownership import Wanted, WantedBoard
from workers.consumer.policy import ConsumerPolicy

KEY = TopicPartition("jobs", 0)


class Group:
    """The broker's side: commits arrive in order, and may be on their way when their owner dies."""

    def __init__(self) -> None:
        self.committed = CommittedOffset(0)
        self.stored = self.sent = CommittedOffset(0)
        self.on_their_way: deque[CommittedOffset] = deque()

    def store(self, key: TopicPartition, offset: int, metadata: str) -> None:
        self.stored = CommittedOffset(offset, metadata)

    def reached(self, key: TopicPartition) -> None:
        return None

    def commit_async(self) -> None:
        if (self.stored.offset or 0) > (self.sent.offset or 0):
            self.sent = self.stored
            self.on_their_way.append(self.stored)

    def commit_explicit(self, offsets: Mapping[TopicPartition, CommittedOffset]) -> None:
        self.on_their_way.extend(offsets.values())


class DoneWorkSurvives(RuleBasedStateMachine):
    """One partition, owner after owner."""

    def __init__(self) -> None:
        super().__init__()
        self.group = Group()
        self.done: set[int] = set()
        """Offsets with a fate; what the group did not hear of is done again."""
        self.owners = 0
        self.begin()

    def begin(self) -> None:
        """Take the partition over from what the group has."""
        self.owners += 1
        run, found = f"run-{self.owners}", self.group.committed
        self.group.stored = self.group.sent = found
        self.group.on_their_way.clear()
        self.now, self.fates = 0.0, 0
        self.meanwhile: Callable[[], None] | None = None
        self.board, claims = WantedBoard(1000), Claims()
        self.held = claims.begin(KEY, found.offset or 0, 0.0)
        self.held.acknowledged = self.held.first = found.offset
        self.held.encoded = found.metadata
        former = CommitMetadata.decode(found.metadata)
        self.held.metadata = CommitMetadata.inherit(former, run)
        self.commits = Commits(
            ConsumerParts(
                cast(Broker, self.group), lambda _: None, self.board, claims,
                ConsumerPolicy(run=run), self.clock,
            )
        )  # fmt: skip
        self.tracker = OffsetTracker()
        self.position = found.offset or 0
        self.inherited = PassedOver(self.held.metadata.settled)
        self.ranges: Ranges | None = None
        self.open: list[int] = []
        self.known = self.promised()
        self.done &= self.known
        self.publish()

    def clock(self) -> float:
        """Read in the middle of a slice: what the loop does then is seen by its second half."""
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            meanwhile()
        return self.now

    def promised(self) -> set[int]:
        """What the group knows to have its fate."""
        found = self.group.committed
        metadata = CommitMetadata.decode(found.metadata)
        ranges = metadata.settled if metadata else ()
        above = {offset for first, last in ranges for offset in range(first, last + 1)}
        return set(range(found.offset or 0)) | above

    def publish(self) -> None:
        wanted: dict[str, Any] = {"watermark": self.tracker.watermark, "fates": self.fates}
        self.board.publish(self.held.claim, Wanted(settled=self.ranges, **wanted))

    def give_fate(self, offset: int, fate: Fate) -> None:
        self.tracker.settle(offset, fate)
        self.fates += 1
        self.publish()

    @precondition(lambda self: len(self.open) < 4)
    @rule(count=st.integers(2, 6))
    def hand_over(self, count: int) -> None:
        for offset in range(self.position, self.position + count):
            self.tracker.add(offset)
            if self.inherited.has(offset):
                assert offset in self.done, "an offset without a fate was passed over"
                self.give_fate(offset, Fate.SKIPPED)
            else:
                assert offset not in self.known, "the group knew its fate"
                self.open.append(offset)
        self.position += count

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def end_one(self, data: st.DataObject) -> None:
        self.end_with_fate(data.draw(st.sampled_from(self.open)))

    def end_with_fate(self, offset: int) -> None:
        self.open.remove(offset)
        self.done.add(offset)
        self.give_fate(offset, Fate.DELIVERED)

    @rule()
    def look(self) -> None:
        """As ``PartitionWorker.note_settled`` does every half a second."""
        above = self.inherited.above(self.tracker.last)
        self.ranges = shortened(ranges_of(self.tracker.gaps()) + above)
        self.publish()

    @rule()
    def slice(self) -> None:
        self.now += 0.6
        self.commits.step()

    @precondition(lambda self: self.open)
    @rule(count=st.integers(1, 3))
    def slice_while_the_loop_works(self, count: int) -> None:
        """Messages end between the two looks that a slice takes at the board."""

        def work() -> None:
            for offset in self.open[:count]:
                self.end_with_fate(offset)
            self.look()

        self.meanwhile = work
        self.slice()

    @rule()
    def slice_with_answers(self) -> None:
        self.slice()
        while self.group.on_their_way:
            self.arrive()

    @precondition(lambda self: self.group.on_their_way)
    @rule()
    def arrive(self) -> None:
        known = self.promised()
        self.group.committed = landed = self.group.on_their_way.popleft()
        assert known <= self.promised(), "the group forgot a fate"
        outcome = CommitOutcome(
            topic_partition=KEY, next_offset=landed.offset, metadata=landed.metadata
        )
        self.commits.answered([outcome])

    @rule()
    def rest(self) -> None:
        """Once all that was to be told has arrived, nothing would be done again."""
        self.look()
        for _ in range(3):
            self.slice_with_answers()
        assert self.done <= self.promised()

    @rule(is_time=st.sampled_from((True, *[False] * 9)))
    def die(self, *, is_time: bool) -> None:
        """Seldom: much has to happen before there is much to lose."""
        if is_time:
            self.begin()

    @invariant()
    def nothing_is_promised_that_is_not_done(self) -> None:
        assert self.promised() <= self.done


TestDoneWorkSurvives = DoneWorkSurvives.TestCase
TestDoneWorkSurvives.settings = settings(max_examples=300, stateful_step_count=60)
