"""The broker in memory under any order of joins, leaves, deaths, polls and commits."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from workers.broker.base import BrokerError, CommitOutcome, GroupConfig, Start, TopicPartition
from workers.broker.memory import MemoryBroker, MemoryCluster
from workers.config import KafkaConfig

TOPIC, GROUP, PARTITIONS, SESSION_SECONDS = "t", "g", 5, 10.0
MEMBERS = st.integers(0, 30)


class Consumer:
    """A member that takes what it is given and commits what it was handed when it gives up."""

    def __init__(self, cluster: MemoryCluster) -> None:
        config = KafkaConfig(topic=TOPIC, group=GROUP, brokers="unused:1")
        self.broker = MemoryBroker(cluster, GroupConfig.from_config(config), SESSION_SECONDS)
        self.owned: set[TopicPartition] = set()
        self.next_offsets: dict[TopicPartition, int] = {}
        self.handed: list[tuple[int, int]] = []
        self.is_frozen = False
        self.broker.open(self)

    def on_assign(self, partitions: Sequence[TopicPartition]) -> None:
        found = self.broker.committed(partitions, 1.0)
        starts = {key: found[key].offset for key in partitions}
        self.broker.assign(
            {key: Start.EARLIEST if at is None else at for key, at in starts.items()}
        )
        self.owned.update(partitions)
        self.next_offsets.update({key: at or 0 for key, at in starts.items()})

    def on_revoke(self, partitions: Sequence[TopicPartition]) -> None:
        self.commit()
        self.on_lost(partitions)

    def on_lost(self, partitions: Sequence[TopicPartition]) -> None:
        for key in partitions:
            self.owned.discard(key)
            self.next_offsets.pop(key, None)

    def on_commit(self, outcomes: Sequence[CommitOutcome]) -> None:
        """Whatever the answer, the next commit says it again."""

    def on_error(self, error: BrokerError) -> None:
        raise error

    def commit(self) -> None:
        for key, offset in self.next_offsets.items():
            if offset:
                self.broker.store(key, offset, "")
        self.broker.commit_async()

    def poll(self) -> None:
        for record in self.broker.poll_batch(3, 0.0):
            key = TopicPartition(record.topic, record.partition)
            assert key in self.owned, "only what is owned is handed over"
            assert record.offset == self.next_offsets[key], "in order, without a gap"
            self.next_offsets[key] = record.offset + 1
            self.handed.append((record.partition, record.offset))


class MemoryGroup(RuleBasedStateMachine):
    """One topic, one group, members that come and go."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.cluster = MemoryCluster(lambda: self.now)
        self.cluster.create_topic(TOPIC, PARTITIONS)
        self.members: list[Consumer] = []
        self.handed: set[tuple[int, int]] = set()
        self.produced = 0
        self.committed = [0] * PARTITIONS

    def pick(self, number: int) -> Consumer | None:
        awake = [member for member in self.members if not member.is_frozen]
        return awake[number % len(awake)] if awake else None

    @rule()
    def join(self) -> None:
        if len(self.members) < 4:
            self.members.append(Consumer(self.cluster))

    @rule(partition=st.integers(0, PARTITIONS - 1), count=st.integers(1, 5))
    def produce(self, partition: int, count: int) -> None:
        for _ in range(count):
            self.cluster.produce(TOPIC, partition, b"x")
            self.produced += 1

    @rule(number=MEMBERS)
    def poll(self, number: int) -> None:
        if member := self.pick(number):
            member.poll()

    @rule(number=MEMBERS)
    def commit(self, number: int) -> None:
        if member := self.pick(number):
            member.commit()

    @rule(number=MEMBERS)
    def leave(self, number: int) -> None:
        if member := self.pick(number):
            member.broker.close()
            self.members.remove(member)
            self.handed.update(member.handed)

    @rule(number=MEMBERS)
    def freeze(self, number: int) -> None:
        if member := self.pick(number):
            member.broker.freeze()
            member.is_frozen = True

    @rule(seconds=st.sampled_from([1.0, SESSION_SECONDS + 1]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def thaw(self) -> None:
        for member in self.members:
            member.broker.thaw()
            member.is_frozen = False

    @invariant()
    def nobody_shares_a_partition(self) -> None:
        members = self.cluster.groups[GROUP].members
        fenced = [one for one in self.members if one.broker._member not in members]
        owned = [key for one in self.members if one not in fenced for key in one.owned]
        assert len(owned) == len(set(owned))

    @invariant()
    def commits_never_fall_nor_pass_what_was_handed_over(self) -> None:
        handed = self.handed.union(*(member.handed for member in self.members))
        for partition in range(PARTITIONS):
            offset = self.cluster.committed(GROUP, TOPIC, partition).offset or 0
            assert offset >= self.committed[partition]
            self.committed[partition] = offset
            assert all((partition, passed) in handed for passed in range(offset))

    def teardown(self) -> None:
        """Once everybody is awake the partitions are shared out evenly and nothing is left."""
        self.thaw()
        self.join()
        for _ in range(4 + self.produced):
            for member in self.members:
                member.poll()
        sizes = [len(member.owned) for member in self.members]
        assert sum(sizes) == PARTITIONS
        assert max(sizes) - min(sizes) <= 1
        handed = self.handed.union(*(member.handed for member in self.members))
        assert len(handed) == self.produced


MemoryGroup.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestMemoryGroup = MemoryGroup.TestCase
