"""What a group committed for a whole topic: where a partition begins, and which runs live."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from domain.commit import CommitMetadata
from workers.broker.base import CommittedOffset, Start
from workers.consumer.ownership import TopicPartition

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
        """Where a partition begins. ``start_at`` is for those that were there when the group
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
        """What a new owner of a partition begins with. How the group began is noted where it
        matters."""
        former = CommitMetadata.decode(self.committed[key].metadata)
        heir = CommitMetadata.inherit(former, run, self.alive(key.partition))
        return heir if start_at == "earliest" else replace(heir, began=self.began)

    def alive(self, partition: int) -> frozenset[str]:
        """Return the runs that live and lost this partition, by the metadata of what they hold."""
        return frozenset(item.run for item in self._metadata if partition in item.lost)


NOTHING_COMMITTED = GroupView(committed={}, partition_count=0)
"""Of no partition."""
