"""Topics with gaps, and consumer groups with incremental rebalances, in memory."""

from __future__ import annotations

import bisect
import itertools
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from domain.message import Header, Message, Record
from workers.broker.base import CommittedOffset, TopicPartition

Clock = Callable[[], float]


class Log:
    """One partition: records in offset order, with gaps where something was compacted away."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.low = 0
        self.high = 0

    def append(self, record: Record) -> None:
        """Add the record of offset ``high``."""
        self.records.append(record)
        self.high += 1

    def truncate(self, low: int) -> None:
        """Forget what lies before ``low`` (retention)."""
        self.low = low
        self.high = max(self.high, low)
        self.records = [record for record in self.records if record.offset >= low]

    def after(self, position: int) -> Record | None:
        """Return the first record at or above a position."""
        index = bisect.bisect_left(self.records, position, key=lambda record: record.offset)
        return self.records[index] if index < len(self.records) else None

    def at(self, timestamp_ms: int) -> int:
        """Return the offset of the first record at or after a time; the end, if there is none."""
        later = (each.offset for each in self.records if each.timestamp >= timestamp_ms)
        return next(later, self.high)


@dataclass(slots=True, eq=False)
class Member:
    """One member as the group coordinator knows it."""

    topics: tuple[str, ...]
    session_seconds: float
    owned: set[TopicPartition] = field(default_factory=set)
    target: set[TopicPartition] = field(default_factory=set)
    frozen_at: float | None = None


class Group:
    """Offsets, members and the wanted assignment of one consumer group."""

    def __init__(self) -> None:
        self.members: list[Member] = []
        self.offsets: dict[TopicPartition, CommittedOffset] = {}

    def expire(self, now: float) -> None:
        """Throw out members that were frozen for longer than their session."""
        for member in list(self.members):
            silent = 0.0 if member.frozen_at is None else now - member.frozen_at
            if silent > member.session_seconds:
                self.members.remove(member)

    def aim(self, partitions: Mapping[str, Sequence[TopicPartition]]) -> None:
        """Share the partitions evenly, moving as few as possible."""
        for topic, keys in partitions.items():
            members = [member for member in self.members if topic in member.topics]
            if members:
                _share(members, keys)

    def is_free(self, key: TopicPartition) -> bool:
        """Whether no member holds a partition."""
        return not any(key in member.owned for member in self.members)


def _share(members: Sequence[Member], keys: Sequence[TopicPartition]) -> None:
    floor, extra = divmod(len(keys), len(members))
    quotas = [floor + (1 if place < extra else 0) for place in range(len(members))]
    kept = [
        sorted(member.target & set(keys))[:quota]
        for member, quota in zip(members, quotas, strict=True)
    ]
    free = iter(sorted(set(keys).difference(*kept)))
    for member, own, quota in zip(members, kept, quotas, strict=True):
        member.target -= set(keys)
        member.target.update(own, itertools.islice(free, quota - len(own)))


class MemoryCluster:
    """All topics and groups, and the switches for faults. Safe for several threads.

    ``is_down``: nothing answers. ``commit_errors``: codes for the next commits, one each.
    ``is_classic_only``: refuses group protocol ``consumer``, as brokers before Kafka 4.0 do.
    """

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self.clock = clock
        self.changed = threading.Condition(threading.RLock())
        self.logs: dict[TopicPartition, Log] = {}
        self.groups: defaultdict[str, Group] = defaultdict(Group)
        self.is_down = self.is_classic_only = False
        self.commit_errors: deque[str] = deque()

    def create_topic(self, topic: str, partitions: int) -> None:
        """Make a topic, or give one more partitions."""
        with self.changed:
            for partition in range(partitions):
                self.logs.setdefault(TopicPartition(topic, partition), Log())
            self.aim()

    def create_partition(self, topic: str, partition: int) -> None:
        """Make one partition of that number, and none below it."""
        with self.changed:
            self.logs.setdefault(TopicPartition(topic, partition), Log())
            self.aim()

    def produce(
        self,
        topic: str,
        partition: int,
        value: bytes | None,
        key: bytes | None = None,
        headers: Sequence[Header] = (),
    ) -> int:
        """Append a record and return its offset."""
        with self.changed:
            log = self.logs[TopicPartition(topic, partition)]
            offset = log.high
            log.append(
                Message(
                    topic=topic,
                    partition=partition,
                    offset=offset,
                    key=key,
                    value=value,
                    headers=headers,
                    timestamp=1_700_000_000_000 + offset,
                    payload=None,
                )
            )
            self.changed.notify_all()
            return offset

    def put(self, record: Record) -> None:
        """Append a record at its own offset; what lies before it never existed."""
        with self.changed:
            log = self.logs[TopicPartition(record.topic, record.partition)]
            log.high = max(log.high, record.offset)
            log.append(record)
            self.changed.notify_all()

    def gap(self, topic: str, partition: int, offsets: int) -> None:
        """Let offsets pass without a record, as compaction and transactions do."""
        with self.changed:
            self.logs[TopicPartition(topic, partition)].high += offsets

    def truncate(self, topic: str, partition: int, low: int) -> None:
        """Forget a partition's records before ``low``."""
        with self.changed:
            self.logs[TopicPartition(topic, partition)].truncate(low)

    def set_down(self, is_down: bool) -> None:
        """Take the whole cluster away, or bring it back."""
        with self.changed:
            self.is_down = is_down
            self.changed.notify_all()

    def committed(self, group: str, topic: str, partition: int) -> CommittedOffset:
        """Return what a group committed, seen from outside."""
        with self.changed:
            found = self.groups[group].offsets.get(TopicPartition(topic, partition))
            return found or CommittedOffset(None)

    def overwrite(self, group: str, topic: str, partition: int, committed: CommittedOffset) -> None:
        """Commit as another program would."""
        with self.changed:
            self.groups[group].offsets[TopicPartition(topic, partition)] = committed

    def partitions_of(self, topic: str) -> list[TopicPartition]:
        """All partitions of a topic, in order."""
        return sorted(key for key in self.logs if key.topic == topic)

    def aim(self) -> None:
        """Work every group's assignment out anew."""
        topics = {key.topic for key in self.logs}
        for group in self.groups.values():
            group.aim({topic: self.partitions_of(topic) for topic in topics})
        self.changed.notify_all()
