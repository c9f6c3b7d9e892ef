"""Rewinds and skips in any order, with rebalances between: what is read is what the commits say."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from domain.commit import CommitPolicy
from workers.broker.base import GroupConfig
from workers.broker.memory import MemoryBroker, MemoryCluster
from workers.config import KafkaConfig
from workers.consumer.moves import Move
from workers.consumer.ownership import Claim, PauseReason, Wanted, WantedBoard
from workers.consumer.policy import ConsumerPolicy
from workers.consumer.signals import (
    ConsumerFailed,
    ConsumerSignal,
    EndRequest,
    EpochsBegun,
    EpochsLost,
    OffsetsCommitted,
    RecordsFetched,
)
from workers.consumer.thread import ConsumerThread

COUNT = 12
SECONDS = 10.0
OPERATOR = frozenset({PauseReason.OPERATOR})


@dataclass
class Reader:
    """A member whose messages have their fate at once, and which an operator pauses and moves."""

    cluster: MemoryCluster
    run: str
    board: WantedBoard = field(default_factory=lambda: WantedBoard(1000))
    claim: Claim | None = None
    start: int | None = None
    read: list[int] = field(default_factory=list)
    """Offsets read in this epoch."""
    watermarks: list[int] = field(default_factory=list)
    acknowledged: int | None = None
    is_resting: bool = False
    error: BaseException | None = None
    changed: threading.Condition = field(default_factory=threading.Condition)

    def __post_init__(self) -> None:
        config = KafkaConfig(brokers="unused:1", topic="t", group="g")
        policy = ConsumerPolicy(
            run=self.run, slice_seconds=0.002, commit=CommitPolicy(interval_seconds=0.002)
        )
        broker = MemoryBroker(self.cluster, GroupConfig.from_config(config))
        self.owner = ConsumerThread(broker, self.post, self.board, policy)
        self.owner.start()

    def post(self, signal: ConsumerSignal) -> None:
        with self.changed:
            match signal:
                case EpochsBegun(assignments):
                    (one,) = assignments
                    self.claim, self.start = one.claim, one.start_offset
                    self.acknowledged = one.committed
                    self.read, self.watermarks = [], []
                    self.is_resting = one.metadata.is_paused
                    self.publish()
                case RecordsFetched(records):
                    for claim, batch in records.items():
                        assert claim == self.claim
                        self.board.taken_messages += len(batch)
                        self.read += [record.offset for record in batch]
                        self.publish()
                case EndRequest():
                    for claim in signal.claims:
                        signal.ended(claim)
                    self.claim = None
                case EpochsLost():
                    self.claim = None
                case OffsetsCommitted(offsets):
                    self.acknowledged = offsets.get(self.claim, self.acknowledged)  # type: ignore[arg-type]
                case ConsumerFailed(error):
                    self.error = error
            self.changed.notify_all()

    def publish(self) -> None:
        assert self.claim is not None
        watermark = self.read[-1] + 1 if self.read else None
        if watermark is not None:
            self.watermarks.append(watermark)
        pauses = OPERATOR if self.is_resting else frozenset()
        self.board.publish(self.claim, Wanted(pauses, watermark, fates=len(self.read)))

    def set_rest(self, is_wanted: bool) -> None:
        with self.changed:
            self.is_resting = is_wanted
            self.publish()

    def until(self, is_there: Callable[[], bool]) -> None:
        with self.changed:
            assert self.changed.wait_for(is_there, SECONDS), (self.start, self.read, self.error)

    def until_owner(self) -> None:
        self.until(lambda: self.claim is not None)

    def until_all_committed(self) -> None:
        self.until(lambda: self.acknowledged == COUNT)

    @property
    def committed(self) -> int:
        return self.cluster.committed("g", "t", 0).offset or 0

    def move(self, offset: int, expected: int) -> str:
        with self.changed:
            claim = self.claim
        assert claim is not None
        move = Move(claim=claim, offset=offset, expected=expected)
        self.owner.move(move)
        return move.answer.result(SECONDS)

    def stop(self) -> None:
        self.owner.request_stop(5.0)
        assert self.owner.join(SECONDS)


Step = tuple[str, int]
STEPS = st.lists(
    st.tuples(st.sampled_from(["move", "stale", "refused", "read", "heir"]), st.integers(0, COUNT)),
    min_size=1,
    max_size=8,
)


@settings(max_examples=40, deadline=None)
@given(steps=STEPS)
def test_what_is_read_is_what_the_commits_say(steps: list[Step]) -> None:
    """After each move the commit stands where it was moved, once and only if the group took it;
    read from there on is every message exactly once in its epoch, by whoever owns the partition;
    within an epoch the watermark never falls."""
    cluster = MemoryCluster(time.monotonic)
    cluster.create_topic("t", 1)
    for _ in range(COUNT):
        cluster.produce("t", 0, b"x")
    reader = Reader(cluster, "run-0")
    try:
        reader.until_all_committed()
        reader.set_rest(True)
        at, began = COUNT, 0
        for number, (what, offset) in enumerate(steps, 1):
            if what == "heir":
                reader.stop()
                reader = Reader(cluster, f"run-{number}")
                reader.until_owner()
                assert (reader.start, reader.is_resting) == (at, True)
                began = at
            elif what == "read":
                reader.set_rest(False)
                reader.until_all_committed()
                assert reader.read == list(range(began, COUNT))
                assert reader.watermarks == sorted(reader.watermarks)
                reader.set_rest(True)
                at = COUNT
            elif what == "stale":
                assert "expected: " in reader.move(offset, at + 1)
            elif what == "refused":
                # The first is the farewell of the epoch, with its metadata; the second is the move.
                cluster.commit_errors.extend(["", "REBALANCE_IN_PROGRESS"])
                answer = reader.move(offset, at)
                cluster.commit_errors.clear()
                assert "did not take it" in answer or offset == at
            else:
                assert reader.move(offset, at) == ""
                at = began = offset
            if what == "refused":
                began = at
            assert reader.committed == at
    finally:
        with suppress(AssertionError):
            reader.stop()
    assert reader.error is None
