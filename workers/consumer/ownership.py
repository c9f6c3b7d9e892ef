"""Partitions by epoch, and what the loop wants of them: published for the consumer thread to read.

Rebalances eat commands, so state is published, not sent. The other way go ``signals``.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from domain.settled import Ranges
from domain.value import value
from workers.broker.base import TopicPartition


class Claim(NamedTuple):
    """One partition in one epoch. Epochs grow with each assign of a consumer and never repeat."""

    topic: str
    partition: int
    epoch: int

    @property
    def topic_partition(self) -> TopicPartition:
        """The partition without the epoch."""
        return TopicPartition(self.topic, self.partition)


class PauseReason(StrEnum):
    """Reason why a partition is not fetched."""

    SHARE = "share"
    PARKED = "parked"
    OPERATOR = "operator"
    QUIET = "quiet"
    HELD = "held"
    CLUSTER = "cluster"


@value(frozen=True, slots=True)
class GuardNote:
    """State of a partition by its crash guard, for the commit metadata.

    ``number`` grows with each change; ``mark``, ``running``, ``task``, ``is_alone`` as in
    ``CommitMetadata``.
    """

    number: int = 0
    mark: int | None = None
    running: int | None = None
    task: str = ""
    is_alone: bool = False


NO_NOTE = GuardNote()
"""State of a partition that is not guarded."""


@value(frozen=True, slots=True)
class Wanted:
    """Wish of the loop for one partition: why it should rest, and up to where it may commit."""

    pauses: frozenset[PauseReason] = frozenset()
    watermark: int | None = None
    fates: int = 0
    """Fates given so far in this epoch: a growing figure, for the commit policy."""
    note: GuardNote = NO_NOTE
    """State by the crash guard; a change of it is committed at once."""
    settled: Ranges | None = None
    """Offsets above the watermark that have their fate, as of the last look; None: those that were
    inherited."""
    is_published: bool = True
    resting: int = 0
    """Messages without a fate for which nothing is done: deferred ones that are not due, and while
    nothing is arranged (the partition is parked) those that wait for it."""


UNSAID = Wanted(is_published=False)
"""Wish for a claim for which the loop has published none yet."""


class WantedBoard:
    """Wanted state by claim, and the room there is. Written on the loop, read by the consumer
    thread.

    Each write replaces one dict entry or one attribute: atomic under the interpreter's lock.
    """

    def __init__(self, room_messages: int) -> None:
        self.most_messages = room_messages
        self.room_messages = room_messages
        self.taken_messages = 0
        """Number of messages handed over of which ``room_messages`` knows."""
        self.notes = 0
        """Changes of guard notes so far: while it grows, the consumer thread looks more often."""
        self.is_resting = False
        """Whether partitions that come rest until something is wanted of them."""
        self.rests = 0
        """Partitions so far that were to rest, or to go on, at once: no slice is waited for."""
        self._wanted: dict[Claim, Wanted] = {}

    def publish(self, claim: Claim, wanted: Wanted) -> None:
        """Say what is wanted of a claim from now on."""
        self._wanted[claim] = wanted

    def read(self, claim: Claim) -> Wanted:
        """Return what is wanted of a claim; UNSAID when nothing was published."""
        return self._wanted.get(claim, UNSAID)

    def forget(self, claim: Claim) -> None:
        """Forget a claim whose epoch is over."""
        self._wanted.pop(claim, None)

    def keep(self, claims: Collection[Claim]) -> None:
        """Forget all others: what the loop said of epochs after the consumer thread forgot them."""
        for claim in [each for each in list(self._wanted) if each not in claims]:
            self.forget(claim)

    @property
    def claims(self) -> Collection[Claim]:
        """Those of which something is wanted."""
        return self._wanted.keys()


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionFigures:
    """Figures of a partition, known to the consumer thread; None is unknown."""

    claim: Claim
    position: int | None
    committed: int | None
    high_watermark: int | None
    is_paused: bool
