"""One suite for every broker: the fake in memory, the client library's mock, real Apache Kafka."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from uuid import uuid4

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from domain.commit import CommitMetadata, CommitPolicy
from tests.support.services import require
from workers.broker.base import (
    Broker,
    BrokerUnavailable,
    CommittedOffset,
    GroupConfig,
    TopicPartition,
)
from workers.broker.kafka import KafkaBroker
from workers.broker.memory import MemoryBroker, MemoryCluster
from workers.config import KafkaConfig
from workers.consumer.moves import Move
from workers.consumer.ownership import Claim, PauseReason, Wanted, WantedBoard
from workers.consumer.policy import ConsumerPolicy
from workers.consumer.signals import (
    Assignment,
    ConsumerClosed,
    ConsumerFailed,
    ConsumerSignal,
    EndRequest,
    EpochsBegun,
    EpochsLost,
    GroupJoined,
    OffsetMissing,
    OffsetsCommitted,
    RecordsFetched,
)
from workers.consumer.thread import ConsumerThread

PARTITIONS = 6
WAIT_SECONDS = 45.0


@dataclass
class World:
    """A broker of some kind, a topic of its own, and members of one group."""

    topic: str
    group: str
    make: Callable[[GroupConfig], Broker]
    produce: Callable[[int, bytes], None]
    protocol: str

    def config(self) -> GroupConfig:
        return GroupConfig.from_config(
            KafkaConfig(
                brokers=self.brokers,
                topic=self.topic,
                group=self.group,
                group_protocol=self.protocol,
                client={"fetch.wait.max.ms": 50},
                session_timeout_ms=self.session_timeout_ms,
            )
        )

    brokers: str = "unused:1"
    is_mock: bool = False
    """Whether it is the client library's mock, which knows no times."""
    session_timeout_ms: int | None = None


@dataclass
class Member:
    """An consumer thread whose loop settles every record at once."""

    world: World
    run: str
    board: WantedBoard = field(default_factory=lambda: WantedBoard(1000))
    seen: list[tuple[int, int]] = field(default_factory=list)
    assignments: list[Assignment] = field(default_factory=list)
    owned: set[Claim] = field(default_factory=set)
    acknowledged: dict[int, int] = field(default_factory=dict)
    errors: list[BaseException] = field(default_factory=list)
    protocol: str | None = None
    changed: threading.Condition = field(default_factory=threading.Condition)
    is_stopped: bool = False

    def __post_init__(self) -> None:
        policy = ConsumerPolicy(run=self.run, commit=CommitPolicy(interval_seconds=0.1))
        self.owner = ConsumerThread(
            self.world.make(self.world.config()), self.post, self.board, policy
        )
        self.owner.start()

    def until(self, is_there: Callable[[], bool]) -> None:
        with self.changed:
            assert self.changed.wait_for(is_there, WAIT_SECONDS), (self.seen, self.errors)

    def stop(self) -> None:
        self.owner.request_stop(10.0)
        self.until(lambda: self.is_stopped)

    def post(self, signal: ConsumerSignal) -> None:
        with self.changed:
            self._take(signal)
            self.changed.notify_all()

    def _take(self, signal: ConsumerSignal) -> None:
        match signal:
            case GroupJoined(protocol):
                self.protocol = protocol
            case EpochsBegun(assignments):
                self.assignments += assignments
                self.owned.update(one.claim for one in assignments)
            case RecordsFetched(records):
                for claim, batch in records.items():
                    self.board.taken_messages += len(batch)
                    self.seen += [(record.partition, record.offset) for record in batch]
                    passed = len([s for s in self.seen if s[0] == claim.partition])
                    self.board.publish(claim, Wanted(watermark=batch[-1].offset + 1, fates=passed))
            case EndRequest(claims=claims):
                for claim in claims:
                    signal.ended(claim)
                self.owned.difference_update(claims)
            case EpochsLost(claims):
                self.owned.difference_update(claims)
            case OffsetsCommitted(offsets):
                self.acknowledged |= {claim.partition: each for claim, each in offsets.items()}
            case OffsetMissing(detail=detail):
                self.errors.append(LookupError(detail))
            case ConsumerFailed(error):
                self.errors.append(error)
            case ConsumerClosed():
                self.is_stopped = True


def _on_kafka(brokers: str, topic: str, protocol: str) -> World:
    producer = Producer({"bootstrap.servers": brokers, "linger.ms": 0})

    def produce(partition: int, value: bytes) -> None:
        producer.produce(topic, value, partition=partition)
        assert producer.flush(20) == 0

    return World(topic, f"g-{topic}", KafkaBroker, produce, protocol, brokers)


WORLDS = ["memory", "mock-consumer", "mock-classic", "apache-consumer", "apache-classic"]
MOCK_CLASSIC_SESSION_MS = 1500
"""The mock lets a ``classic`` group wait for a whole session when it rebalances."""


@pytest.fixture(params=WORLDS)
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    kind, _, protocol = request.param.partition("-")
    topic = f"t-{uuid4().hex[:8]}"
    if kind == "memory":
        cluster = MemoryCluster(time.monotonic)
        cluster.create_topic(topic, PARTITIONS)
        yield World(
            topic,
            "g",
            lambda config: MemoryBroker(cluster, config),
            lambda partition, value: (cluster.produce(topic, partition, value), None)[1],
            "consumer",
        )
        return
    require(kind)
    server = request.getfixturevalue(f"kafka_{kind}")
    if kind == "mock":
        server.create_topic(topic, PARTITIONS)
    else:
        admin = AdminClient({"bootstrap.servers": server.brokers})
        for done in admin.create_topics([NewTopic(topic, PARTITIONS, 1)]).values():
            done.result(20)
    made = _on_kafka(server.brokers, topic, protocol)
    if request.param == "mock-classic":
        made.session_timeout_ms = MOCK_CLASSIC_SESSION_MS
    made.is_mock = kind == "mock"
    yield made


def fill(world: World, first: int, count: int) -> set[tuple[int, int]]:
    for number in range(first, first + count):
        for partition in range(PARTITIONS):
            world.produce(partition, b"%d" % number)
    return {(p, n) for p in range(PARTITIONS) for n in range(first, first + count)}


def test_records_come_in_order_and_a_restart_resumes_at_the_commit(world: World) -> None:
    wanted = fill(world, 0, 5)
    first = Member(world, "run-1")
    first.until(lambda: len(first.seen) >= len(wanted))
    for partition in range(PARTITIONS):
        assert [o for p, o in first.seen if p == partition] == list(range(5))
    first.stop()
    assert first.acknowledged == dict.fromkeys(range(PARTITIONS), 5)
    more = fill(world, 5, 3)
    second = Member(world, "run-2")
    second.until(lambda: len(second.seen) >= len(more))
    assert set(second.seen) == more
    assert len(second.seen) == len(more)
    metadata = {one.metadata for one in second.assignments}
    assert metadata == {CommitMetadata(run="run-2")}
    assert {one.committed for one in second.assignments} == {5}
    second.stop()


def without_first_answer(broker: Broker) -> Broker:
    """The broker, which does not tell in time what is committed when it is asked first."""
    ask = broker.committed
    missing = iter([BrokerUnavailable("no answer in time", "_TIMED_OUT")])

    def committed(
        partitions: Sequence[TopicPartition], timeout_seconds: float
    ) -> dict[TopicPartition, CommittedOffset]:
        for error in missing:
            raise error
        return ask(partitions, timeout_seconds)

    broker.committed = committed  # type: ignore[method-assign]
    return broker


def test_a_new_group_without_an_answer_at_its_assign_begins_all_the_same(world: World) -> None:
    make = world.make
    world.make = lambda config: without_first_answer(make(config))
    wanted = fill(world, 0, 3)
    member = Member(world, "run-1")
    member.until(lambda: len(member.seen) >= len(wanted) or bool(member.errors))
    assert (set(member.seen), member.errors) == (wanted, [])
    member.stop()


@pytest.mark.slow
def test_a_second_member_takes_its_share_without_loss_or_doubling(world: World) -> None:
    wanted = fill(world, 0, 4)
    first = Member(world, "run-1")
    first.until(lambda: len(first.seen) >= len(wanted))
    second = Member(world, "run-2")
    second.until(lambda: bool(second.owned))
    more = fill(world, 4, 4)
    deadline = time.monotonic() + WAIT_SECONDS
    while len(first.seen) + len(second.seen) < len(wanted | more) and time.monotonic() < deadline:
        with first.changed:
            first.changed.wait(0.1)
    second.stop()
    last = fill(world, 8, 1)
    everything = wanted | more | last
    first.until(lambda: set(first.seen) | set(second.seen) == everything)
    assert len(first.seen) + len(second.seen) == len(everything)
    assert first.protocol == world.protocol
    first.stop()


def rest(member: Member, claim: Claim) -> None:
    """Pause a partition as an operator, all of its messages having their fate."""
    passed = [offset for partition, offset in member.seen if partition == claim.partition]
    watermark = passed[-1] + 1 if passed else None
    pauses = frozenset({PauseReason.OPERATOR})
    member.board.publish(claim, Wanted(pauses, watermark=watermark, fates=len(passed)))


def moved(member: Member, partition: int, offset: int, expected: int) -> str:
    """Move a commit; the answer, once the next epoch has begun."""
    claim = next(claim for claim in member.owned if claim.partition == partition)
    move = Move(claim=claim, offset=offset, expected=expected)
    member.owner.move(move)
    return move.answer.result(WAIT_SECONDS)


def begin_again(member: Member, partition: int) -> Claim:
    """Forget what was read of a partition before its epoch, and let it be read on."""
    claim = next(claim for claim in member.owned if claim.partition == partition)
    member.seen = [each for each in member.seen if each[0] != partition]
    member.acknowledged.pop(partition, None)
    member.board.publish(claim, Wanted())
    return claim


def test_a_moved_commit_is_where_the_next_epoch_begins_and_what_an_heir_finds(
    world: World,
) -> None:
    wanted = fill(world, 0, 6)
    member = Member(world, "run-1")
    member.until(lambda: len(member.seen) >= len(wanted))
    member.until(lambda: member.acknowledged.get(2) == 6)
    before = next(claim for claim in member.owned if claim.partition == 2)
    rest(member, before)
    assert moved(member, 2, 3, 6) == ""
    again = next(one for one in member.assignments if one.claim in member.owned - {before}
                 and one.claim.partition == 2)  # fmt: skip
    assert (again.start_offset, again.committed, again.metadata.is_paused) == (3, 3, True)
    begin_again(member, 2)
    member.until(lambda: len([p for p, _ in member.seen if p == 2]) == 3)
    assert [offset for partition, offset in member.seen if partition == 2] == [3, 4, 5]
    member.until(lambda: member.acknowledged.get(2) == 6)
    rest_again = next(claim for claim in member.owned if claim.partition == 2)
    rest(member, rest_again)
    assert moved(member, 2, 1, 5).startswith("expected: the group has committed 6, not 5")
    assert moved(member, 2, 1, 6) == ""
    member.stop()
    heir = Member(world, "run-2")
    heir.until(lambda: any(one.claim.partition == 2 for one in heir.assignments))
    found = next(one for one in heir.assignments if one.claim.partition == 2)
    assert (found.start_offset, found.metadata.is_paused) == (1, True)
    fill(world, 6, 4)
    rest(heir, found.claim)
    assert moved(heir, 2, 9, 1) == ""
    begin_again(heir, 2)
    heir.until(lambda: any(partition == 2 for partition, _ in heir.seen))
    heir.until(lambda: heir.acknowledged.get(2) == 10)
    assert [offset for partition, offset in heir.seen if partition == 2] == [9]
    heir.stop()


def test_a_time_finds_the_first_message_at_or_after_it(world: World) -> None:
    fill(world, 0, 2)
    member = Member(world, "run-1")
    member.until(lambda: len(member.seen) >= 2 * PARTITIONS)
    key = TopicPartition(world.topic, 1)
    assert member.owner.bounds(key) == (0, 2)
    if not world.is_mock:
        assert member.owner.offset_at(key, 0) == 0
        assert member.owner.offset_at(key, 4_000_000_000_000) == 2
    member.stop()
