"""Kafka in memory: topics with gaps, consumer groups, incremental rebalances, injected faults.

Members hand over as Kafka's do: one gives a partition up in its own poll, and only
then the next one gets it. Commits are checked for member, never for ownership, as Kafka does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence

from domain.message import Record
from workers.broker.base import (
    BrokerUnavailable,
    CallbackGuard,
    CommitOutcome,
    CommittedOffset,
    FencedError,
    GroupConfig,
    GroupProtocolUnsupported,
    OffsetOutOfRange,
    PollInterrupted,
    RebalanceListener,
    Start,
    TopicMissing,
    TopicPartition,
    Watermarks,
    fall_back,
)
from workers.broker.memory_cluster import Group, Member, MemoryCluster

__all__ = ["MemoryBroker", "MemoryCluster"]


class MemoryBroker:
    """A member of a group in a ``MemoryCluster`` (see ``Broker``)."""

    def __init__(
        self, cluster: MemoryCluster, config: GroupConfig, session_seconds: float = 10.0
    ) -> None:
        self._cluster = cluster
        self._config = config
        self._protocol = "classic" if config.protocol == "classic" else "consumer"
        self._session_seconds = (config.session_timeout_ms or session_seconds * 1000) / 1000
        self._guard = CallbackGuard()
        self._listener: RebalanceListener
        self._member: Member | None = None
        self._held: set[TopicPartition] = set()
        self._positions: dict[TopicPartition, int] = {}
        self._paused: set[TopicPartition] = set()
        self._stored: dict[TopicPartition, CommittedOffset] = {}
        self._sent: dict[TopicPartition, int] = {}
        self._in_flight: deque[tuple[str, dict[TopicPartition, CommittedOffset]]] = deque()
        self._calls: deque[Callable[[], None]] = deque()
        self._turn = 0
        self._raise_next: Exception | None = None
        self._silent: set[TopicPartition] = set()

    @property
    def joined_protocol(self) -> str | None:
        if self._member is None:
            return None
        return self._protocol

    @property
    def topics(self) -> tuple[str, ...]:
        return self._config.topics

    def open(self, listener: RebalanceListener) -> None:
        self._listener = listener
        if self._cluster.is_down:
            raise BrokerUnavailable("the cluster is down", "_ALL_BROKERS_DOWN")

    # -- faults

    def freeze(self) -> None:
        """Send no heartbeats from now on: the session runs out."""
        if self._member is not None:
            self._member.frozen_at = self._cluster.clock()

    def thaw(self) -> None:
        """Send heartbeats again; the next poll learns whether it was in time."""
        if self._member is not None:
            self._member.frozen_at = None

    def raise_in_poll(self, error: Exception) -> None:
        """Let the next poll that collects anything throw its messages away and raise."""
        self._raise_next = error

    def fall_silent(self, key: TopicPartition) -> None:
        """Deliver nothing of a partition until a seek or an assign (librdkafka #5591)."""
        self._silent.add(key)

    # -- polling

    def poll_batch(self, max_messages: int, timeout_seconds: float) -> list[Record]:
        self._agree_on_protocol()
        self._rebalance()
        self._answer_commits()
        with self._cluster.changed:
            records = self._collect(max_messages)
            if not records and not self._calls:
                self._cluster.changed.wait(timeout_seconds)
                records = self._collect(max_messages)
        self._run_calls()
        self._throw(records)
        self._guard.check(records)
        return records

    def _agree_on_protocol(self) -> None:
        if self._cluster.is_classic_only and self._protocol == "consumer":
            refused = GroupProtocolUnsupported("the cluster is classic only", "UNSUPPORTED_VERSION")
            fall_back(self._config, refused)
            self._protocol = "classic"

    def _throw(self, records: Sequence[Record]) -> None:
        if records and self._raise_next is not None:
            error, self._raise_next = self._raise_next, None
            raise PollInterrupted([], error)

    def _collect(self, max_messages: int) -> list[Record]:
        records: list[Record] = []
        if self._cluster.is_down:
            return records
        keys = sorted(self._positions)
        self._turn += 1
        for step in range(len(keys)):
            key = keys[(self._turn + step) % len(keys)]
            while key not in self._paused | self._silent and len(records) < max_messages:
                record = self._next(key)
                if record is None:
                    break
                records.append(record)
        return records

    def _next(self, key: TopicPartition) -> Record | None:
        log, position = self._cluster.logs[key], self._positions.get(key)
        if position is None:
            return None
        if not log.low <= position <= log.high:
            self._stand(key, f"offset {position} is outside {log.low}..{log.high}")
            return None
        record = log.after(position)
        if record is not None:
            self._positions[key] = record.offset + 1
        return record

    def _stand(self, key: TopicPartition, detail: str) -> None:
        self._positions.pop(key, None)
        error = OffsetOutOfRange(*key, detail, "_AUTO_OFFSET_RESET")
        self._calls.append(lambda: self._listener.on_error(error))

    def _run_calls(self) -> None:
        while self._calls:
            self._guard.run(self._calls.popleft())

    # -- the group

    def _rebalance(self) -> None:
        with self._cluster.changed:
            if self._cluster.is_down:
                return
            group = self._group()
            before = len(group.members)
            group.expire(self._cluster.clock())
            if len(group.members) != before:
                self._cluster.aim()
        if self._member is None or self._member not in group.members:
            self._rejoin(group)
        self._give_up()
        self._take_over(group)

    def _group(self) -> Group:
        return self._cluster.groups[self._config.group]

    def _rejoin(self, group: Group) -> None:
        if self._member is not None:
            owned = sorted(self._member.owned)
            self._guard.run(lambda: self._listener.on_lost(owned))
            self._release(owned)
        with self._cluster.changed:
            self._member = Member(self._config.topics, self._session_seconds)
            group.members.append(self._member)
            self._cluster.aim()

    def _give_up(self) -> None:
        member = self._current()
        with self._cluster.changed:
            gone = sorted(member.owned - member.target)
        if gone:
            self._guard.run(lambda: self._listener.on_revoke(gone))
            self._release(gone)
            self._answer_commits()

    def _release(self, keys: Sequence[TopicPartition]) -> None:
        with self._cluster.changed:
            self._land_commits()
            self._current().owned.difference_update(keys)
            self.unassign(keys)
            self._cluster.changed.notify_all()

    def _take_over(self, group: Group) -> None:
        member = self._current()
        with self._cluster.changed:
            new = sorted(key for key in member.target - member.owned if group.is_free(key))
            member.owned.update(new)
        if new:
            self._guard.run(lambda: self._listener.on_assign(new))

    def _current(self) -> Member:
        if self._member is None:
            raise FencedError("not a member", "UNKNOWN_MEMBER_ID")
        return self._member

    # -- assignment

    def assign(self, starts: Mapping[TopicPartition, int | Start]) -> None:
        with self._cluster.changed:
            for key, start in starts.items():
                self._held.add(key)
                self._begin(key, start)

    def _begin(self, key: TopicPartition, start: int | Start) -> None:
        log = self._cluster.logs[key]
        logical = {Start.EARLIEST: log.low, Start.LATEST: log.high}
        found = logical.get(start) if isinstance(start, Start) else start
        if start is Start.COMMITTED:
            found = self._group().offsets.get(key, CommittedOffset(None)).offset
        if found is None:
            self._stand(key, "no offset is committed")
            return
        self._positions[key] = found
        self._silent.discard(key)

    def unassign(self, partitions: Sequence[TopicPartition]) -> None:
        with self._cluster.changed:
            for key in partitions:
                self._held.discard(key)
                self._positions.pop(key, None)
                self._stored.pop(key, None)
                self._sent.pop(key, None)

    def pause(self, partitions: Sequence[TopicPartition]) -> None:
        self._paused.update(key for key in partitions if key in self._held)

    def resume(self, partitions: Sequence[TopicPartition]) -> None:
        self._paused.difference_update(partitions)

    def reached(self, topic_partition: TopicPartition) -> int | None:
        with self._cluster.changed:
            position = self._positions.get(topic_partition)
            if position is None or topic_partition in self._silent | self._paused:
                return None
            log = self._cluster.logs[topic_partition]
            return log.high if log.after(position) is None else None

    def seek(self, topic_partition: TopicPartition, offset: int) -> None:
        if topic_partition not in self._positions:
            raise FencedError(f"{topic_partition} is not fetched", "_STATE")
        self._positions[topic_partition] = offset
        self._silent.discard(topic_partition)

    def position(self, topic_partition: TopicPartition) -> int | None:
        return self._positions.get(topic_partition)

    # -- offsets

    def store(self, topic_partition: TopicPartition, next_offset: int, metadata: str) -> None:
        if topic_partition not in self._held:
            raise FencedError(f"{topic_partition} is not assigned", "_STATE")
        self._stored[topic_partition] = CommittedOffset(next_offset, metadata)

    def commit_async(self) -> None:
        moved = {
            key: committed
            for key, committed in self._stored.items()
            if (committed.offset or 0) > self._sent.get(key, -1)
        }
        if moved:
            self._send(moved)

    def commit_explicit(self, offsets: Mapping[TopicPartition, CommittedOffset]) -> None:
        self._send(dict(offsets))

    def _send(self, offsets: dict[TopicPartition, CommittedOffset]) -> None:
        with self._cluster.changed:
            errors = self._cluster.commit_errors
            self._in_flight.append((errors.popleft() if errors else "", offsets))
            self._land_commits()

    def _land_commits(self) -> None:
        while self._in_flight and not self._cluster.is_down:
            code, offsets = self._in_flight.popleft()
            if not code and self._member not in self._group().members:
                code = "UNKNOWN_MEMBER_ID"
            if not code:
                self._group().offsets.update(offsets)
                self._cluster.changed.notify_all()
                self._sent.update((key, item.offset or 0) for key, item in offsets.items())
            outcomes = [_outcome(key, item, code) for key, item in offsets.items()]
            self._calls.append(self._telling(outcomes))

    def _telling(self, outcomes: Sequence[CommitOutcome]) -> Callable[[], None]:
        return lambda: self._listener.on_commit(outcomes)

    def _answer_commits(self) -> None:
        with self._cluster.changed:
            self._land_commits()
        self._run_calls()

    def committed(
        self, partitions: Sequence[TopicPartition], timeout_seconds: float
    ) -> dict[TopicPartition, CommittedOffset]:
        self._check_up()
        with self._cluster.changed:
            offsets = self._group().offsets
            return {key: offsets.get(key, CommittedOffset(None)) for key in partitions}

    def cached_watermarks(self, topic_partition: TopicPartition) -> Watermarks | None:
        if topic_partition not in self._positions:
            return None
        log = self._cluster.logs[topic_partition]
        return Watermarks(log.low, log.high)

    def end_offsets(
        self, partitions: Sequence[TopicPartition], timeout_seconds: float
    ) -> dict[TopicPartition, int]:
        self._check_up()
        with self._cluster.changed:
            return {key: self._cluster.logs[key].high for key in partitions}

    def begin_offsets(
        self, partitions: Sequence[TopicPartition], timeout_seconds: float
    ) -> dict[TopicPartition, int]:
        self._check_up()
        with self._cluster.changed:
            return {key: self._cluster.logs[key].low for key in partitions}

    def offset_at(
        self, topic_partition: TopicPartition, timestamp_ms: int, timeout_seconds: float
    ) -> int:
        self._check_up()
        with self._cluster.changed:
            return self._cluster.logs[topic_partition].at(timestamp_ms)

    def partition_count(self, topic: str, timeout_seconds: float) -> int:
        self._check_up()
        with self._cluster.changed:
            count = len(self._cluster.partitions_of(topic))
        if not count:
            raise TopicMissing(f"topic {topic} does not exist")
        return count

    def _check_up(self) -> None:
        if self._cluster.is_down:
            raise BrokerUnavailable("the cluster is down", "_ALL_BROKERS_DOWN")

    def close(self) -> None:
        group, member = self._group(), self._member
        if member is None:
            return
        owned = sorted(member.owned)
        if owned:
            self._guard.run(lambda: self._listener.on_revoke(owned))
        with self._cluster.changed:
            self._land_commits()
            if member in group.members:
                group.members.remove(member)
            member.owned.clear()
            self._cluster.aim()
        self._run_calls()


def _outcome(key: TopicPartition, item: CommittedOffset, code: str) -> CommitOutcome:
    error = FencedError(f"the commit was refused ({code})", code) if code else None
    return CommitOutcome(
        topic_partition=key, next_offset=item.offset, metadata=item.metadata, error=error
    )
