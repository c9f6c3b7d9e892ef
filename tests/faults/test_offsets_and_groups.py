"""Offsets that hold no message, partitions that come later, and addresses with colons."""

from __future__ import annotations

import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal
from uuid import uuid4

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions, NewTopic
from prometheus_client import CollectorRegistry
from pydantic import ValidationError

from domain.commit import CommitPolicy
from domain.message import Record
from drakkar_site.config.tree import SiteConfig
from integration.services.kafka_apache import RunningKafka
from integration.services.kafka_mock import RunningMock
from sinks.base import TransientError
from sinks.record_reader import read_record
from workers.broker.base import Broker, CommittedOffset, GroupConfig
from workers.broker.kafka import KafkaBroker
from workers.broker.kafka_lag import group_lag
from workers.broker.memory import MemoryBroker, MemoryCluster
from workers.config import KafkaConfig
from workers.consumer.ownership import Claim, Wanted, WantedBoard
from workers.consumer.policy import ConsumerPolicy
from workers.consumer.signals import (
    ConsumerClosed,
    ConsumerFailed,
    ConsumerSignal,
    EndRequest,
    EpochsBegun,
    FetchStalled,
    OffsetMissing,
    RecordsFetched,
)
from workers.consumer.thread import ConsumerThread
from workers.runtime.health import HealthServer, Probes

WAIT_SECONDS = 45.0
STALL_SECONDS = 1.0
QUIET_SECONDS = 4.0
StartAt = Literal["earliest", "latest", "error"]


class Member:
    """An consumer thread whose loop settles every record at once, or holds them all."""

    def __init__(self, broker: Broker, run: str, start_at: StartAt, *, is_holding: bool) -> None:
        self.board = WantedBoard(10_000)
        self.is_holding = is_holding
        self.changed = threading.Condition()
        self.seen: list[tuple[int, bytes | None]] = []
        self.told: list[str] = []
        self.owned: set[int] = set()
        self._counts: dict[Claim, int] = {}
        policy = ConsumerPolicy(
            run=run,
            start_at=start_at,
            stall_seconds=STALL_SECONDS,
            figures_interval_seconds=0.2,
            retry_seconds=0.1,
            commit=CommitPolicy(interval_seconds=0.1),
        )
        self.owner = ConsumerThread(broker, self.post, self.board, policy)
        self.owner.start()

    def _note(self, text: str) -> None:
        with self.changed:
            self.told.append(text)
            self.changed.notify_all()

    def until(self, holds: Callable[[], bool], seconds: float = WAIT_SECONDS) -> None:
        with self.changed:
            assert self.changed.wait_for(holds, seconds), (self.seen, self.told)

    def post(self, signal: ConsumerSignal) -> None:
        match signal:
            case EpochsBegun(assignments):
                self.owned |= {each.claim.partition for each in assignments}
                self._note("assigned")
            case RecordsFetched(records):
                self._take(records)
                self._note("handed_over")
            case EndRequest(claims=claims):
                for claim in claims:
                    self.owned.discard(claim.partition)
                    signal.ended(claim)
            case FetchStalled(claim, position, end_offset):
                self._note(f"stalled {claim.partition} at {position}, end {end_offset}")
            case OffsetMissing(claim):
                self._note(f"out_of_range {claim.partition}")
            case ConsumerFailed(error):
                self._note(f"failed {error!r}")
            case ConsumerClosed():
                self._note("stopped")

    def _take(self, records: Mapping[Claim, Sequence[Record]]) -> None:
        for claim, batch in records.items():
            self.board.taken_messages += len(batch)
            self.seen += [(each.partition, each.value) for each in batch]
            self._counts[claim] = self._counts.get(claim, 0) + len(batch)
            if not self.is_holding:
                wanted = Wanted(watermark=batch[-1].offset + 1, fates=self._counts[claim])
                self.board.publish(claim, wanted)

    def lags(self) -> dict[int, int | None]:
        """What a heartbeat shows of each partition."""
        return {
            claim.partition: None
            if known.high_watermark is None or known.committed is None
            else known.high_watermark - known.committed
            for claim, known in self.owner.figures().items()
        }

    def rests(self) -> None:
        """Nothing is told as stalled, out of range or failed for a while at the end."""
        with self.changed:
            bad = ("stalled", "out_of_range", "failed")
            self.changed.wait_for(lambda: any(t.startswith(bad) for t in self.told), QUIET_SECONDS)
            assert [text for text in self.told if text.startswith(bad)] == []

    def stop(self) -> None:
        self.owner.request_stop(10.0)
        self.until(lambda: "stopped" in self.told)


class Group:
    """A topic on some broker, and the members of one group."""

    def __init__(self, make: Callable[[], Broker]) -> None:
        self._make = make
        self.members: list[Member] = []

    def join(self, start_at: StartAt = "earliest", *, is_holding: bool = False) -> Member:
        run = f"run-{len(self.members)}"
        self.members.append(Member(self._make(), run, start_at, is_holding=is_holding))
        return self.members[-1]

    def close(self) -> None:
        for member in self.members:
            member.owner.kill()
            assert member.owner.join(10)


@pytest.fixture(autouse=True)
def asked_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.consumer.positions.ENDS_SECONDS", 0.3)


class Kafka(Group):
    """A topic of its own on Apache Kafka."""

    def __init__(self, brokers: str, protocol: Any, **topic: str) -> None:
        self.brokers, self.topic = brokers, f"offsets-{uuid4().hex[:8]}"
        self.admin = AdminClient({"bootstrap.servers": brokers})
        self._wait(self.admin.create_topics([NewTopic(self.topic, 1, 1, config=topic)]))
        self.config = KafkaConfig(
            brokers=brokers,
            topic=self.topic,
            group=f"g-{self.topic}",
            group_protocol=protocol,
            client={"fetch.wait.max.ms": 50, "topic.metadata.refresh.interval.ms": 500},
        )
        super().__init__(lambda: KafkaBroker(GroupConfig.from_config(self.config)))

    @staticmethod
    def _wait(futures: Mapping[Any, Any]) -> None:
        for future in futures.values():
            future.result(20)

    def add_partitions(self, count: int) -> None:
        self._wait(self.admin.create_partitions([NewPartitions(self.topic, count)]))

    def delete_before(self, offset: int) -> None:
        self._wait(self.admin.delete_records([TopicPartition(self.topic, 0, offset)]))

    def produce(self, *values: bytes, partition: int = 0, key: bytes | None = None) -> None:
        producer = Producer({"bootstrap.servers": self.brokers})
        for value in values:
            producer.produce(self.topic, value, key, partition)
        assert producer.flush(20) == 0

    def transaction(self, *values: bytes, outcome: str = "commit") -> Producer:
        producer = Producer({"bootstrap.servers": self.brokers, "transactional.id": uuid4().hex})
        producer.init_transactions(20)
        producer.begin_transaction()
        for value in values:
            producer.produce(self.topic, value, partition=0)
        producer.flush(20)
        if outcome != "open":
            (producer.commit_transaction if outcome == "commit" else producer.abort_transaction)()
            self._await_marker()
        return producer

    def _await_marker(self) -> None:
        """The broker writes a transaction's marker after it has answered its client."""
        place, deadline = TopicPartition(self.topic, 0), time.monotonic() + WAIT_SECONDS
        settings = {"bootstrap.servers": self.brokers, "group.id": "looks"}
        stable = Consumer(settings)
        latest = Consumer({**settings, "isolation.level": "read_uncommitted"})
        try:
            while True:
                ends = [
                    each.get_watermark_offsets(place, timeout=10)[1] for each in (stable, latest)
                ]
                if ends[0] == ends[1]:
                    return
                assert time.monotonic() < deadline, f"last stable and last offset: {ends}"
        finally:
            stable.close()
            latest.close()

    def offsets(self) -> list[int]:
        """Which offsets still hold a message."""
        consumer = Consumer({"bootstrap.servers": self.brokers, "group.id": "looks"})
        try:
            end = consumer.get_watermark_offsets(TopicPartition(self.topic, 0), timeout=10)[1]
            consumer.assign([TopicPartition(self.topic, 0, 0)])
            found: list[int] = []
            while not found or found[-1] < end - 1:
                message = consumer.poll(10)
                assert message is not None
                found.append(int(message.offset() or 0))
            return found
        finally:
            consumer.close()

    def is_drained(self) -> bool:
        """As the controller, the topics page and any tool of Kafka's own see the group."""
        time.sleep(0.1)
        return group_lag(self.config) == 0


@pytest.fixture(params=["consumer", "classic"])
def kafka(request: pytest.FixtureRequest, kafka_apache: RunningKafka) -> Iterator[Kafka]:
    made = Kafka(kafka_apache.brokers, request.param)
    yield made
    made.close()


def values(member: Member) -> list[bytes | None]:
    return [value for _, value in member.seen]


def drained(kafka: Kafka, member: Member) -> None:
    end = time.monotonic() + WAIT_SECONDS
    while not (kafka.is_drained() and member.lags() == {0: 0}):
        assert time.monotonic() < end, (group_lag(kafka.config), member.lags(), member.told)


@pytest.mark.slow
@pytest.mark.parametrize("outcome", ["commit", "abort"])
def test_a_topic_of_transactions_rests_and_shows_no_lag(kafka: Kafka, outcome: str) -> None:
    kafka.transaction(b"a", b"b")
    member = kafka.join()
    member.until(lambda: values(member) == [b"a", b"b"])
    kafka.transaction(b"c", outcome=outcome)
    member.rests()
    drained(kafka, member)
    assert values(member) == [b"a", b"b", b"c"][: 3 if outcome == "commit" else 2]
    member.stop()
    heir = kafka.join()
    heir.until(lambda: bool(heir.owned))
    kafka.transaction(b"d")
    heir.until(lambda: values(heir) == [b"d"])
    heir.rests()


def test_an_open_transaction_is_no_stall(kafka: Kafka) -> None:
    kafka.produce(b"a")
    member = kafka.join()
    member.until(lambda: values(member) == [b"a"])
    producer = kafka.transaction(b"b", outcome="open")
    kafka.produce(b"c")
    member.rests()
    assert values(member) == [b"a"]
    producer.commit_transaction()
    member.until(lambda: values(member) == [b"a", b"b", b"c"])


COMPACTED = {
    "cleanup.policy": "compact",
    "segment.ms": "1",
    "min.cleanable.dirty.ratio": "0.001",
    "max.compaction.lag.ms": "1",
}


@pytest.mark.slow
def test_a_compacted_topic_rests(kafka_apache: RunningKafka) -> None:
    """Its offsets have holes; the member reads what is left and stands at the end."""
    kafka = Kafka(kafka_apache.brokers, "consumer", **COMPACTED)
    for n in range(20):
        kafka.produce(b"%d" % n, key=b"same")
    end = time.monotonic() + WAIT_SECONDS
    while (left := kafka.offsets()) == list(range(20)):
        assert time.monotonic() < end, "the broker compacted nothing"
    assert left[-1] == 19
    member = kafka.join()
    try:
        member.until(lambda: b"19" in values(member))
        member.rests()
        drained(kafka, member)
        assert len(member.seen) < 20
        kafka.produce(b"new", key=b"other")
        member.until(lambda: values(member)[-1] == b"new")
    finally:
        kafka.close()


def test_a_deleted_range_rests(kafka: Kafka) -> None:
    kafka.produce(*(b"%d" % n for n in range(20)))
    kafka.delete_before(15)
    member = kafka.join()
    member.until(lambda: values(member) == [b"%d" % n for n in range(15, 20)])
    kafka.delete_before(20)
    member.rests()
    drained(kafka, member)


def test_a_partition_that_appears_later_begins_at_its_first_message(kafka: Kafka) -> None:
    kafka.produce(b"before the group")
    member = kafka.join("latest")
    member.until(lambda: member.owned == {0})
    kafka.produce(b"0-0")
    member.until(lambda: values(member) == [b"0-0"])
    kafka.add_partitions(3)
    wanted = {(n, b"%d-%d" % (n, k)) for n in range(3) for k in range(15)}
    for n in range(3):
        kafka.produce(*(b"%d-%d" % (n, k) for k in range(n == 0, 15)), partition=n)
    member.until(lambda: set(member.seen) >= wanted)
    assert sorted(member.seen) == sorted(wanted)


# -- on the broker in memory, where every order of things can be had


class Memory(Group):
    """A topic of four partitions in memory."""

    def __init__(self) -> None:
        self.cluster = MemoryCluster()
        self.cluster.create_topic("jobs", 4)
        config = GroupConfig(brokers="", topic="jobs", group="g")
        super().__init__(lambda: MemoryBroker(self.cluster, config))

    def committed(self) -> list[int | None]:
        return [self.cluster.committed("g", "jobs", n).offset for n in range(4)]

    def produce(self, value: bytes, *partitions: int) -> None:
        for partition in partitions:
            self.cluster.produce("jobs", partition, value)


@pytest.fixture
def memory() -> Iterator[Memory]:
    made = Memory()
    yield made
    made.close()


def test_control_records_at_the_end_are_passed_over(memory: Memory) -> None:
    memory.produce(b"a", 0)
    memory.cluster.gap("jobs", 0, 1)
    member = memory.join()
    member.until(lambda: len(member.seen) == 1)
    member.rests()
    assert memory.committed()[0] == 2


def test_control_records_are_not_passed_over_while_a_message_has_no_fate(memory: Memory) -> None:
    memory.produce(b"a", 0)
    memory.cluster.gap("jobs", 0, 1)
    member = memory.join(is_holding=True)
    member.until(lambda: len(member.seen) == 1)
    member.rests()
    assert memory.committed()[0] in (None, 0)
    member.stop()
    heir = memory.join()
    heir.until(lambda: len(heir.seen) == 1)


def test_a_silent_client_is_still_a_stall(memory: Memory) -> None:
    member = memory.join()
    member.until(lambda: len(member.owned) == 4)
    broker = member.owner._broker
    assert isinstance(broker, MemoryBroker)
    for partition in range(4):
        broker.fall_silent(next(k for k in broker._held if k.partition == partition))
    memory.produce(b"a", 0)
    member.until(lambda: any(text.startswith("stalled 0") for text in member.told))
    member.until(lambda: len(member.seen) == 1)


def test_what_comes_while_nobody_is_there_is_not_passed_over(memory: Memory) -> None:
    """An idle partition of a group that begins at the latest offset has no message to commit."""
    memory.produce(b"before the group", 0, 1, 2, 3)
    first = memory.join("latest")
    first.until(lambda: len(first.owned) == 4)
    memory.produce(b"a", 0)
    first.until(lambda: first.seen == [(0, b"a")])
    first.stop()
    memory.produce(b"b", 0, 1, 2, 3)
    second = memory.join("latest")
    second.until(lambda: len(second.seen) == 4)
    assert sorted(second.seen) == [(n, b"b") for n in range(4)]


def test_members_of_a_new_group_begin_alike_whoever_commits_first(memory: Memory) -> None:
    """The second finds commits of the first: its partitions are no later ones for that."""
    memory.produce(b"before the group", 0, 1, 2, 3)
    first = memory.join("latest", is_holding=True)
    first.until(lambda: len(first.owned) == 4)
    first.stop()
    # As if the first had died before it could commit where the other two begin.
    for partition in (2, 3):
        memory.cluster.overwrite("g", "jobs", partition, CommittedOffset(None))
    second = memory.join("latest")
    second.until(lambda: len(second.owned) == 4)
    memory.produce(b"a", 0, 1, 2, 3)
    second.until(lambda: len(second.seen) >= 4)
    assert sorted(second.seen) == [(n, b"a") for n in range(4)]


def test_a_later_partition_has_its_first_message_with_any_start_at(memory: Memory) -> None:
    for start_at in ("latest", "error", "earliest"):
        group = Memory()
        memory.members += group.members
        for partition in range(4):
            group.cluster.overwrite("g", "jobs", partition, CommittedOffset(0))
        member = group.join(start_at)
        try:
            member.until(lambda m=member: len(m.owned) == 4)  # type: ignore[misc]
            group.cluster.create_topic("jobs", 6)
            for partition in range(6):
                group.cluster.produce("jobs", partition, b"x")
            member.until(lambda m=member: len(m.seen) == 6, 10)  # type: ignore[misc]
            assert "out_of_range" not in " ".join(member.told)
        finally:
            group.close()


# -- addresses


@pytest.mark.parametrize("host", ["::1", "[::1]", "::", "127.0.0.1"])
def test_the_workers_port_listens_on_ipv6(host: str) -> None:
    server = HealthServer(
        host=host,
        port=0,
        registry=CollectorRegistry(),
        probes=Probes(live=lambda: None, ready=lambda: None),
        page_url="http://[::1]:8000/?worker=w",
    )
    server.start()
    try:
        ways = ["[::1]", "127.0.0.1"] if host == "::" else ["127.0.0.1" if "." in host else "[::1]"]
        for way in ways:
            with urllib.request.urlopen(f"http://{way}:{server.port}/healthz", timeout=5) as said:
                assert said.status == 200
    finally:
        with suppress(OSError):
            server.close()


@pytest.mark.parametrize(
    ("bind", "url"),
    [
        ("[::1]:8000", "http://[::1]:8000"),
        ("[::]:8000", "http://[::1]:8000"),
        ("0.0.0.0:8000", "http://127.0.0.1:8000"),
        ("127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("web.example:80", "http://web.example:80"),
    ],
)
def test_the_site_is_told_where_it_listens(bind: str, url: str) -> None:
    site = SiteConfig(database_url="postgres://h/d", secret_key="s" * 50, bind=bind)
    assert site.url == url


@pytest.mark.parametrize("bind", ["::1:8000", "[::1]", "[::g]:80", "h:99999", "h:", "[h]:80", ""])
def test_a_place_to_listen_that_is_none_is_refused(bind: str) -> None:
    with pytest.raises(ValidationError):
        SiteConfig(database_url="postgres://h/d", secret_key="s" * 50, bind=bind)


def test_brokers_in_brackets_are_reached(kafka_mock: RunningMock) -> None:
    """Through a listener on ::1 that passes bytes to the mock on 127.0.0.1."""
    target = int(kafka_mock.brokers.rpartition(":")[2])
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listener:
        threading.Thread(target=_forward, args=(listener, target), daemon=True).start()
        brokers = f"[::1]:{listener.getsockname()[1]}"
        config = KafkaConfig(brokers=brokers, topic="t", group="g")
        found = AdminClient({"bootstrap.servers": config.brokers}).list_topics(timeout=10)
        assert found.brokers


def _forward(listener: socket.socket, port: int) -> None:
    with suppress(OSError):
        while True:
            near, far = listener.accept()[0], socket.create_connection(("127.0.0.1", port))
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=_pump, args=(one, other), daemon=True).start()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("brokers", ["::1:9092", "h:9092,::1:9092", "ssl://fe80::1:9092"])
def test_an_address_without_brackets_is_refused(brokers: str) -> None:
    with pytest.raises(ValidationError, match=r"\[::1\]:9092"):
        KafkaConfig(brokers=brokers, topic="t", group="g")


@pytest.mark.parametrize("outcome", ["commit", "abort"])
def test_an_offset_that_holds_no_message_is_told_as_gone(
    kafka_apache: RunningKafka, outcome: str
) -> None:
    """As the page that probes a message and a replay of a letter read it."""
    kafka = Kafka(kafka_apache.brokers, "consumer")
    kafka.transaction(b"a", outcome=outcome)
    found = [
        read_record(kafka.topic, 0, offset, brokers=kafka.brokers, client={}, timeout_seconds=10.0)
        for offset in (0, 1)
    ]
    values_ = [None if each is None else each.value() for each in found]
    assert values_ == [b"a" if outcome == "commit" else None, None]


def test_an_offset_in_an_open_transaction_is_not_told_as_gone(kafka_apache: RunningKafka) -> None:
    """Taken for gone, a letter was closed as expired whose message came a moment later."""
    kafka = Kafka(kafka_apache.brokers, "consumer")
    kafka.transaction(b"a")
    kafka.transaction(b"b", outcome="open")
    place: dict[str, Any] = {"brokers": kafka.brokers, "client": {}, "timeout_seconds": 10.0}
    with pytest.raises(TransientError, match="0:2 is in an open transaction"):
        read_record(kafka.topic, 0, 2, **place)
    assert read_record(kafka.topic, 0, 9, **place) is None
