"""Commits of a group for a whole topic: where a partition begins, and which runs live."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from domain.commit import CommitMetadata
from workers.broker.base import BrokerError, CommittedOffset, Start, TopicPartition
from workers.consumer.claims import ConsumerParts
from workers.consumer.positions import TopicWatch

logger = logging.getLogger("drakkar.consumer")

StartAt = Literal["earliest", "latest", "error"]


@dataclass(frozen=True, kw_only=True)
class GroupView:
    """The offsets and metadata of one group for all partitions of its topic, at one moment."""

    committed: Mapping[TopicPartition, CommittedOffset]
    partition_count: int

    @cached_property
    def _metadata(self) -> list[CommitMetadata]:
        decoded = (CommitMetadata.decode(item.metadata) for item in self.committed.values())
        return [item for item in decoded if item is not None]

    @cached_property
    def began(self) -> int | None:
        """Partitions the topic had when the group began; None: nobody noted it."""
        is_new = all(item.offset is None for item in self.committed.values())
        noted = (item.began for item in self._metadata if item.began is not None)
        return max(noted, default=self.partition_count if is_new else None)

    def start_of(self, key: TopicPartition, start_at: StartAt) -> int | Start:
        """Return where a partition begins. ``start_at`` is for those that were there when the group
        began; one that appeared later begins with its first message, or some would be in no run.
        """
        offset = self.committed[key].offset
        if offset is not None:
            return offset
        if key.partition >= (self.began or 0):
            return Start.EARLIEST
        choice = {"earliest": Start.EARLIEST, "latest": Start.LATEST}
        return choice.get(start_at, Start.COMMITTED)

    def inherit(self, key: TopicPartition, run: str, start_at: StartAt) -> CommitMetadata:
        """Return what a new owner of a partition begins with. How the group began is noted where it
        matters."""
        former = CommitMetadata.decode(self.committed[key].metadata)
        heir = CommitMetadata.inherit(former, run, self.alive(key.partition))
        return heir if start_at == "earliest" else replace(heir, began=self.began)

    def alive(self, partition: int) -> frozenset[str]:
        """Return the runs that live and lost this partition, by the metadata of what they hold."""
        return frozenset(item.run for item in self._metadata if partition in item.lost)


def by_topic(partitions: Sequence[TopicPartition]) -> list[list[TopicPartition]]:
    """Return the partitions of each topic together."""
    found: dict[str, list[TopicPartition]] = {}
    for key in partitions:
        found.setdefault(key.topic, []).append(key)
    return list(found.values())


NOTHING_COMMITTED = GroupView(committed={}, partition_count=0)
"""Of no partition."""


class GroupReader:
    """Asks what the group committed; consumer thread only."""

    def __init__(self, parts: ConsumerParts, topic: TopicWatch) -> None:
        self._parts = parts
        self._topic = topic
        self.error: BrokerError | None = None
        """Error of the last question; None: it was answered."""

    def view(self, partitions: Sequence[TopicPartition]) -> GroupView | None:
        """Return what the group committed for the whole topic: what it says of others counts too.

        None: nobody could be asked. All partitions are of one topic.
        """
        topic = partitions[0].topic
        try:
            count = self._topic.partition_counts.get(topic)
            if count is None:
                seconds = self._parts.policy.ask_timeout_seconds
                count = self._parts.broker.partition_count(topic, seconds)
        except BrokerError as exc:
            logger.warning("partitions of the topic unknown: %s", exc)
            self.error = exc
            return None
        count = max([count, *(key.partition + 1 for key in partitions)])
        found = self.committed([TopicPartition(topic, number) for number in range(count)])
        return None if found is None else GroupView(committed=found, partition_count=count)

    def starts(
        self, partitions: Sequence[TopicPartition], view: GroupView
    ) -> tuple[dict[TopicPartition, int | Start], dict[TopicPartition, int]] | None:
        """Return where each begins, and the numbers of those without a commit; None: unknown.

        These are committed at once: so what comes while nobody is there is not passed over where
        ``latest`` is the start, and an owner that dies of its first message is known by name.
        """
        policy = self._parts.policy
        starts = {key: view.start_of(key, policy.start_of(key.topic)) for key in partitions}
        latest = [key for key, start in starts.items() if start is Start.LATEST]
        earliest = [key for key, start in starts.items() if start is Start.EARLIEST]
        seconds = policy.ask_timeout_seconds
        try:
            ends = self._parts.broker.end_offsets(latest, seconds)
            # Retention may move the first offset on before it is read: EARLIEST stays there.
            return starts | ends, ends | self._parts.broker.begin_offsets(earliest, seconds)
        except BrokerError as exc:
            logger.warning("where %s begin is unknown: %s", [*latest, *earliest], exc)
            self.error = exc
            return None

    def committed(
        self, partitions: Sequence[TopicPartition]
    ) -> dict[TopicPartition, CommittedOffset] | None:
        """Return the committed offsets of these; None when nobody could be asked."""
        self.error = None
        try:
            return self._parts.broker.committed(partitions, self._parts.policy.ask_timeout_seconds)
        except BrokerError as exc:
            logger.warning("committed offsets of %s unknown: %s", partitions, exc)
            self.error = exc
            return None
