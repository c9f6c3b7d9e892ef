"""The consumer thread on the memory broker: hand-over, revoke, lost, stop, room, repair."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import pytest

from domain.commit import CommitMetadata
from domain.message import Record
from workers.broker.base import BrokerError, CommittedOffset, GroupConfig, Start, TopicPartition
from workers.broker.memory import MemoryBroker, MemoryCluster
from workers.consumer.moves import Move
from workers.consumer.ownership import Claim, PauseReason, Wanted, WantedBoard
from workers.consumer.policy import ConsumerPolicy
from workers.consumer.signals import (
    Assignment,
    CommitRefused,
    ConsumerClosed,
    ConsumerFailed,
    ConsumerSignal,
    DeathsTakenBack,
    EndReason,
    EndRequest,
    EpochsBegun,
    EpochsLost,
    FetchStalled,
    GroupJoined,
    NoteCommitted,
    NothingAssigned,
    OffsetMissing,
    OffsetsCommitted,
    RecordsFetched,
    WaitingFor,
)
from workers.consumer.thread import ConsumerThread


class Loop:
    """A listener that gives every record its fate at once unless told to hold."""

    def __init__(self, board: WantedBoard, is_holding: bool = False) -> None:
        self.board = board
        self.is_holding = is_holding
        self.changed = threading.Condition()
        self.claims: dict[Claim, Assignment] = {}
        self.records: list[tuple[Claim, int]] = []
        self.requests: list[EndRequest] = []
        self.commits: dict[Claim, int] = {}
        self.told: list[str] = []
        self.error: BaseException | None = None

    def _note(self, text: str) -> None:
        with self.changed:
            self.told.append(text)
            self.changed.notify_all()

    def post(self, signal: ConsumerSignal) -> None:
        match signal:
            case GroupJoined(protocol):
                self._note(f"joined {protocol}")
            case WaitingFor(detail):
                self._note(f"waiting {detail}")
            case NothingAssigned(detail):
                self._note(f"idle {detail}")
            case EpochsBegun(assignments):
                self.claims |= {item.claim: item for item in assignments}
                self._note("assigned")
            case RecordsFetched(records):
                self._take(records)
                self._note("handed_over")
            case EndRequest():
                self._end(signal)
                self._note(f"ending {signal.reason}")
            case EpochsLost():
                self._note("lost")
            case OffsetsCommitted(offsets):
                self.commits |= offsets
                self._note("committed")
            case CommitRefused(code):
                self._note(f"commit_failed {code}")
            case NoteCommitted(_, number):
                self._note(f"noted {number}")
            case FetchStalled(_, position, end_offset):
                self._note(f"stalled {position} {end_offset}")
            case ConsumerFailed(error):
                self.error = error
                self._note(f"failed {error!r}")
            case DeathsTakenBack():
                self._note("absolved")
            case OffsetMissing():
                self._note("out_of_range")
            case ConsumerClosed():
                self._note("stopped")

    def _take(self, records: Mapping[Claim, Sequence[Record]]) -> None:
        for claim, items in records.items():
            self.records += [(claim, item.offset) for item in items]
            self.board.taken_messages += len(items)
            if not self.is_holding:
                self.pass_all(claim)

    def pass_all(self, claim: Claim) -> None:
        offsets = [offset for owner, offset in self.records if owner == claim]
        self.board.publish(claim, Wanted(watermark=offsets[-1] + 1, fates=len(offsets)))

    def _end(self, request: EndRequest) -> None:
        self.requests.append(request)
        if not self.is_holding:
            for claim in request.claims:
                self.claims.pop(claim, None)
                request.ended(claim)

    def until(self, condition: Callable[[], bool], seconds: float = 5.0) -> None:
        end = time.monotonic() + seconds
        with self.changed:
            while not condition() and time.monotonic() < end:
                self.changed.wait(0.02)
        assert condition(), self.told

    def sees(self, text: str) -> None:
        self.until(lambda: any(item.startswith(text) for item in self.told))


class Rig:
    """A cluster of one topic, and owners on it."""

    def __init__(self) -> None:
        self.cluster = MemoryCluster()
        self.cluster.create_topic("jobs", 4)
        self.owners: list[ConsumerThread] = []

    def add(
        self,
        *,
        is_holding: bool = False,
        room: int = 100,
        board: WantedBoard | None = None,
        **policy: object,
    ) -> tuple[ConsumerThread, Loop, MemoryBroker]:
        board = board or WantedBoard(room)
        board.taken_messages = 1000  # By a former consumer of a worker that joined again.
        loop = Loop(board, is_holding)
        broker = MemoryBroker(self.cluster, GroupConfig(brokers="", topic="jobs", group="g"), 0.3)
        chosen = ConsumerPolicy(run="run-1", retry_seconds=0.05, **policy)  # type: ignore[arg-type]
        owner = ConsumerThread(broker, loop.post, board, chosen)
        self.owners.append(owner)
        owner.start()
        return owner, loop, broker

    def produce(self, count: int) -> None:
        for number in range(count):
            self.cluster.produce("jobs", number % 4, str(number).encode())

    def committed(self) -> list[int | None]:
        return [self.cluster.committed("g", "jobs", n).offset for n in range(4)]


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    yield made
    for owner in made.owners:
        owner.kill()
        assert owner.join(3)


def test_hands_over_in_order_and_commits_with_metadata(rig: Rig) -> None:
    rig.produce(40)
    _, loop, _ = rig.add()
    loop.until(lambda: rig.committed() == [10] * 4)
    for claim in loop.claims:
        assert [offset for owner, offset in loop.records if owner == claim] == list(range(10))
    found = CommitMetadata.decode(rig.cluster.committed("g", "jobs", 0).metadata)
    assert found == CommitMetadata(run="run-1")
    assert loop.told.index("joined consumer") < loop.told.index("assigned")


def test_rebalance_loses_and_doubles_nothing(rig: Rig) -> None:
    rig.produce(200)
    first, loop, _ = rig.add()
    loop.until(lambda: len(loop.records) >= 4)
    _, other, _ = rig.add()
    other.sees("assigned")
    rig.produce(200)
    loop.until(lambda: len(loop.records) + len(other.records) >= 400)
    seen = [(claim.partition, offset) for claim, offset in loop.records + other.records]
    assert sorted(seen) == [(n, offset) for n in range(4) for offset in range(100)]
    first.request_stop(2)
    other.until(lambda: len(other.claims) == 4 and rig.committed() == [100] * 4)


def test_revoke_waits_for_the_loop_and_commits_its_last_word(rig: Rig) -> None:
    rig.produce(4)
    _, loop, _ = rig.add(is_holding=True)
    loop.until(lambda: len(loop.records) == 4)
    _, other, _ = rig.add()
    loop.sees("ending revoked")
    assert not other.claims
    request = loop.requests[0]
    for claim in request.claims:
        loop.pass_all(claim)
        request.ended(claim)
    other.until(lambda: len(other.claims) == 2)
    assert {item.committed for item in other.claims.values()} == {1}


def test_the_words_of_all_partitions_are_one_request(rig: Rig) -> None:
    rig.produce(4)
    rig.cluster.commit_errors.append("NOT_COORDINATOR")
    _, loop, _ = rig.add(is_holding=True)
    loop.until(lambda: loop.told.count("commit_failed NOT_COORDINATOR") == 4)


def test_a_group_that_takes_no_commit_is_waited_for_and_named(rig: Rig) -> None:
    rig.produce(4)
    rig.cluster.commit_errors.extend(["GROUP_AUTHORIZATION_FAILED"] * 400)
    _, loop, _ = rig.add(refused_seconds=0.2)
    loop.until(lambda: any("waiting the group to take commits of jobs" in one for one in loop.told))
    rig.cluster.commit_errors.clear()
    loop.until(lambda: "waiting None" in loop.told)
    loop.until(lambda: rig.committed() == [1] * 4)


def test_one_refused_commit_is_waited_for_by_nobody(rig: Rig) -> None:
    rig.produce(4)
    rig.cluster.commit_errors.append("NOT_COORDINATOR")
    _, loop, _ = rig.add(refused_seconds=2.0)
    loop.until(lambda: rig.committed() == [1] * 4)
    assert not [one for one in loop.told if one.startswith("waiting the group")]


def test_revoke_past_its_deadline_fences(rig: Rig) -> None:
    rig.produce(4)
    _, loop, _ = rig.add(is_holding=True, revoke_timeout_seconds=0.1)
    loop.until(lambda: len(loop.records) == 4)
    _, other, _ = rig.add(is_holding=True)
    other.until(lambda: len(other.records) == 2)
    for claim in loop.requests[0].claims:
        loop.pass_all(claim)
        assert rig.cluster.committed("g", "jobs", claim.partition).offset in (None, 0)


def test_lost_commits_nothing_of_the_old_epoch(rig: Rig) -> None:
    rig.produce(4)
    _, loop, broker = rig.add(is_holding=True)
    loop.until(lambda: len(loop.records) == 4)
    old = list(loop.claims)
    broker.freeze()
    loop.sees("lost")
    loop.until(lambda: len(loop.records) == 8)
    for claim in old:
        loop.pass_all(claim)
    new = {claim.partition: claim for claim, _ in loop.records if claim not in old}
    loop.pass_all(new[0])
    loop.until(lambda: loop.commits == {new[0]: 1})
    assert rig.committed()[0] == 1
    assert not any(rig.committed()[1:])


def test_stop_commits_and_leaves(rig: Rig) -> None:
    rig.produce(40)
    owner, loop, _ = rig.add()
    loop.until(lambda: len(loop.records) == 40)
    owner.request_stop(3)
    loop.sees("stopped")
    assert rig.committed() == [10] * 4
    assert sum(loop.commits.values()) == 40
    assert loop.requests[0].reason is EndReason.STOPPED
    assert not rig.cluster.groups["g"].members


def last_words(rig: Rig) -> set[CommitMetadata | None]:
    return {CommitMetadata.decode(rig.cluster.committed("g", "jobs", n).metadata) for n in range(4)}


def test_the_last_word_is_said_though_its_offset_is_committed_and_not_yet_answered(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, loop, broker = rig.add()
    loop.sees("assigned")
    commit = broker.commit_async

    def commit_and_stop() -> None:
        commit()
        owner.request_stop(60)

    monkeypatch.setattr(broker, "commit_async", commit_and_stop)
    rig.produce(4)
    loop.sees("stopped")
    assert last_words(rig) == {CommitMetadata(run="run-1", has_left=True)}
    assert loop.commits == dict.fromkeys({claim for claim, _ in loop.records}, 1)
    assert loop.told.count("committed") == 1


def stop_with_refused_words(rig: Rig, *codes: str) -> Loop:
    rig.produce(4)
    owner, loop, _ = rig.add(is_holding=True)
    loop.until(lambda: rig.committed() == [0] * 4)
    owner.request_stop(60)
    loop.sees("ending stopped")
    rig.cluster.commit_errors.extend(codes)
    for claim in loop.requests[0].claims:
        loop.board.publish(claim, Wanted(watermark=1, fates=1))
        loop.requests[0].ended(claim)
    loop.sees("stopped")
    return loop


def test_a_refused_last_word_is_said_again(rig: Rig) -> None:
    loop = stop_with_refused_words(rig, "NOT_COORDINATOR", "NOT_COORDINATOR")
    assert last_words(rig) == {CommitMetadata(run="run-1", has_left=True)}
    assert loop.told.count("commit_failed NOT_COORDINATOR") == 8


def test_the_stop_does_not_wait_for_words_that_no_longer_count(rig: Rig) -> None:
    loop = stop_with_refused_words(rig, *["UNKNOWN_MEMBER_ID"] * 4)
    assert rig.committed() == [0] * 4
    assert not loop.commits


def test_the_stop_does_not_wait_for_words_refused_at_a_revoke(rig: Rig) -> None:
    rig.produce(4)
    owner, loop, _ = rig.add(is_holding=True)
    loop.until(lambda: rig.committed() == [0] * 4)
    _, other, _ = rig.add()
    loop.sees("ending revoked")
    rig.cluster.commit_errors.extend(["REBALANCE_IN_PROGRESS"] * 2)
    for claim in loop.requests[0].claims:
        loop.pass_all(claim)
        loop.requests[0].ended(claim)
    other.sees("assigned")
    loop.is_holding = False
    owner.request_stop(60)
    loop.sees("stopped")


def test_kill_cuts_the_stop_short(rig: Rig) -> None:
    rig.produce(4)
    owner, loop, _ = rig.add(is_holding=True)
    loop.until(lambda: len(loop.records) == 4)
    owner.request_stop(60)
    loop.sees("ending stopped")
    owner.kill()
    assert owner.join(3)
    assert not any(rig.committed())


def test_asks_only_for_the_room_there_is(rig: Rig) -> None:
    _, loop, _ = rig.add(room=3, no_room_seconds=0.05)
    batches: list[int] = []

    def take(records: Mapping[Claim, Sequence[Record]]) -> None:
        loop.board.room_messages = 0
        batches.append(sum(map(len, records.values())))
        loop.board.taken_messages += batches[-1]
        loop._note("taken")

    loop._take = take  # type: ignore[method-assign]
    loop.sees("assigned")
    rig.produce(40)
    loop.until(lambda: bool(batches))
    loop.until(lambda: len(batches) > 1 or _all_paused(rig.owners[0]))
    assert batches in ([1], [2], [3])
    loop.board.room_messages = 3
    loop.until(lambda: len(batches) == 2)
    assert max(batches) <= 3


class CountingBoard(WantedBoard):
    """Counts how often it is read."""

    reads = 0

    def read(self, claim: Claim) -> Wanted:
        self.reads += 1
        return super().read(claim)


def test_the_claims_are_gone_through_once_a_slice_however_many_messages_come(rig: Rig) -> None:
    board = CountingBoard(100)
    _, loop, _ = rig.add(board=board, slice_seconds=2.0)
    loop.sees("assigned")
    for number in range(50):
        rig.produce(1)
        loop.until(lambda number=number: len(loop.records) > number)  # type: ignore[misc]
    assert loop.told.count("handed_over") == 50
    assert board.reads < 50, "some for the new claims and at most a slice or two"


def test_a_partition_that_holds_nothing_gets_a_turn(rig: Rig) -> None:
    """The others filled the room; what has just come is not to wait for their backlog."""
    _, loop, _ = rig.add(room=16)
    kept: list[int] = []

    def keep(records: Mapping[Claim, Sequence[Record]]) -> None:
        for claim, several in records.items():
            kept.extend(claim.partition for _ in several)
            loop.board.publish(claim, Wanted(fates=0))
        loop.board.room_messages = 16 - len(kept)
        loop.board.taken_messages += sum(map(len, records.values()))
        loop._note("kept")

    loop._take = keep  # type: ignore[method-assign]
    loop.sees("assigned")
    for number in range(40):
        rig.cluster.produce("jobs", 0, str(number).encode())
    loop.until(lambda: len(kept) == 14)
    rig.cluster.produce("jobs", 3, b"late")
    rig.cluster.produce("jobs", 3, b"later")
    loop.until(lambda: 3 in kept)
    assert kept.count(0) == 14
    assert len(kept) <= 16


def _all_paused(owner: ConsumerThread) -> bool:
    figures = owner.figures().values()
    return bool(figures) and all(item.is_paused for item in figures)


def test_exception_in_a_poll_loses_nothing(rig: Rig) -> None:
    _, loop, broker = rig.add()
    loop.sees("assigned")
    broker.raise_in_poll(RuntimeError("injected"))
    rig.produce(40)
    loop.until(lambda: rig.committed() == [10] * 4)
    assert len(loop.records) == len(set(loop.records)) == 40


def test_an_assignment_that_cannot_be_taken_over_ends_the_owner(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise BrokerError("not in this state", "_STATE")

    monkeypatch.setattr(MemoryBroker, "assign", broken)
    _, loop, _ = rig.add()
    loop.sees("failed")
    assert isinstance(loop.error, BrokerError)


def test_says_why_partitions_are_not_begun_until_they_are(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise BrokerError("not allowed", "GROUP_AUTHORIZATION_FAILED")

    rig.produce(4)
    with monkeypatch.context() as patch:
        patch.setattr(MemoryBroker, "committed", refused)
        _, loop, _ = rig.add()
        loop.sees("waiting what the group committed (4 partitions are not begun): not allowed")
    loop.until(lambda: rig.committed() == [1] * 4)
    loop.until(lambda: loop.told.count("waiting None") == 1)


def test_refused_commit_is_tried_again(rig: Rig) -> None:
    rig.cluster.commit_errors.append("UNKNOWN_MEMBER_ID")
    rig.produce(4)
    _, loop, _ = rig.add()
    loop.sees("commit_failed UNKNOWN_MEMBER_ID")
    loop.until(lambda: rig.committed() == [1] * 4)


def test_overwritten_offset_is_repaired(rig: Rig) -> None:
    rig.produce(40)
    _, loop, _ = rig.add(check_interval_seconds=0.2, first_check_seconds=0.1)
    loop.until(lambda: rig.committed() == [10] * 4)
    rig.cluster.overwrite("g", "jobs", 2, CommittedOffset(3))
    loop.until(lambda: rig.committed() == [10] * 4)


def test_out_of_range_stands_until_restarted(rig: Rig) -> None:
    rig.produce(40)
    rig.cluster.truncate("jobs", 1, 5)
    rig.cluster.overwrite("g", "jobs", 1, CommittedOffset(2))
    owner, loop, _ = rig.add()
    loop.sees("out_of_range")
    loop.until(lambda: rig.committed() == [10, 2, 10, 10])
    owner.restart(next(claim for claim in loop.claims if claim.partition == 1), Start.EARLIEST)
    loop.until(lambda: rig.committed() == [10] * 4)


def test_a_member_that_is_given_nothing_says_so_until_it_is(rig: Rig) -> None:
    owner, first, _ = rig.add(idle_seconds=0.3)
    first.until(lambda: len(first.claims) == 4)
    fifth = [rig.add(idle_seconds=0.3)[1] for _ in range(4)][-1]
    fifth.sees("idle a partition: a member of the group for 0.3 s, it was given none of 4")
    assert not any(item.startswith("idle") for item in first.told)
    owner.request_stop(1.0)
    fifth.sees("idle None")
    assert fifth.claims


def test_waits_for_a_broker_that_is_away(rig: Rig) -> None:
    rig.cluster.set_down(True)
    _, loop, _ = rig.add()
    loop.sees("waiting the cluster is down")
    rig.cluster.set_down(False)
    loop.sees("assigned")
    loop.until(lambda: loop.told[-1] == "waiting None" or "waiting None" in loop.told)


def test_a_partition_that_fell_silent_is_told_and_read_on(rig: Rig) -> None:
    _, loop, broker = rig.add(stall_seconds=0.2, figures_interval_seconds=0.05)
    loop.until(lambda: len(loop.claims) == 4)
    broker.fall_silent(TopicPartition("jobs", 2))
    rig.produce(8)
    loop.sees("stalled 0 2")
    loop.until(lambda: len(loop.records) == 8)
    assert [text for text in loop.told if text.startswith("stalled")] == ["stalled 0 2"]


def test_a_paused_partition_is_not_called_stalled(rig: Rig) -> None:
    owner, loop, _ = rig.add(stall_seconds=0.1, figures_interval_seconds=0.02)
    loop.until(lambda: len(loop.claims) == 4)
    (claim,) = [claim for claim in loop.claims if claim.partition == 2]
    loop.board.publish(claim, Wanted(pauses=frozenset({PauseReason.OPERATOR})))
    loop.until(lambda: claim in owner.figures() and owner.figures()[claim].is_paused)
    rig.produce(8)
    loop.until(lambda: len(loop.records) == 6)
    with pytest.raises(AssertionError):
        loop.until(lambda: any(text.startswith("stalled") for text in loop.told), seconds=0.5)


def rested(rig: Rig, loop: Loop, partition: int) -> Claim:
    """Wait until all of a partition is committed, and pause it as an operator."""
    loop.until(lambda: rig.committed()[partition] == 10)
    claim = next(claim for claim in loop.claims if claim.partition == partition)
    loop.until(lambda: loop.commits.get(claim) == 10)
    pauses = frozenset({PauseReason.OPERATOR})
    loop.board.publish(claim, Wanted(pauses, watermark=10, fates=10))
    return claim


def test_a_move_whose_answer_does_not_come_is_not_said_to_be_done(rig: Rig) -> None:
    rig.produce(40)
    owner, loop, _ = rig.add(ask_timeout_seconds=0.2)
    claim = rested(rig, loop, 1)
    rig.cluster.set_down(True)
    move = Move(claim=claim, offset=4, expected=10)
    owner.move(move)
    said = move.answer.result(10)
    assert said == (
        "the group did not take it (no answer came in time): nobody can be asked where the "
        "partition stands: its committed offset will say"
    )
    rig.cluster.set_down(False)
    # What was on its way lands when the broker is back: the epoch begins where the group then is.
    loop.until(lambda: any(each.partition == 1 for each in loop.claims))
    begun = next(item for each, item in loop.claims.items() if each.partition == 1)
    assert (begun.start_offset, begun.metadata.is_paused) == (rig.committed()[1], True)


def test_a_move_of_a_partition_that_is_taken_meanwhile_is_answered_as_unknown(rig: Rig) -> None:
    rig.produce(40)
    owner, loop, broker = rig.add(ask_timeout_seconds=30.0)
    claims = [rested(rig, loop, partition) for partition in range(4)]
    unanswered = broker.commit_explicit

    def without_answer(offsets: Mapping[TopicPartition, CommittedOffset]) -> None:
        if any(item.offset == 4 for item in offsets.values()):
            return
        unanswered(offsets)

    broker.commit_explicit = without_answer  # type: ignore[method-assign]
    moves = [Move(claim=claim, offset=4, expected=10) for claim in claims]
    for move in moves:
        owner.move(move)
    loop.until(lambda: not loop.claims)
    _, heir, _ = rig.add()
    heir.until(lambda: len(heir.claims) == 2)
    taken = {claim.partition for claim in heir.claims}
    for move in moves:
        if move.claim.partition in taken:
            assert "it was given up before the group answered" in move.answer.result(10)
        else:
            assert not move.answer.done()
    assert {item.start_offset for item in heir.claims.values()} == {10}


def test_whoever_gives_up_waiting_for_a_move_ends_nothing(rig: Rig) -> None:
    rig.produce(40)
    owner, loop, _ = rig.add()
    claim = rested(rig, loop, 1)
    move = Move(claim=claim, offset=4, expected=10)
    owner.move(move)
    assert not move.answer.cancel()
    assert move.answer.result(10) == ""
    loop.until(lambda: any(each.partition == 1 for each in loop.claims))
    assert rig.committed()[1] == 4


def test_moves_that_wait_are_refused_when_the_consumer_ends(rig: Rig) -> None:
    rig.produce(40)
    owner, loop, _ = rig.add()
    claim = rested(rig, loop, 1)
    owner.request_stop(5.0)
    loop.sees("stopped")
    move = Move(claim=claim, offset=4, expected=10)
    owner.move(move)
    assert move.answer.result(10) == "the worker leaves the group: ask the next owner"
