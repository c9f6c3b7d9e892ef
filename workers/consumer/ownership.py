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


class TopicPartition(NamedTuple):
    """A partition of a topic."""

    topic: str
    partition: int


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
    """Why a partition is not fetched."""

    SHARE = "share"
    PARKED = "parked"
    OPERATOR = "operator"
    QUIET = "quiet"


@value(frozen=True, slots=True)
class GuardNote:
    """What the crash guard says of its partition now, for the commit metadata.

    ``number`` grows with each change; ``mark``, ``running``, ``task``, ``is_alone`` as in
    ``CommitMetadata``.
    """

    number: int = 0
    mark: int | None = None
    running: int | None = None
    task: str = ""
    is_alone: bool = False


NO_NOTE = GuardNote()
"""What a guard says that never said anything."""


@value(frozen=True, slots=True)
class Wanted:
    """What the loop wants of one partition: why it should rest, and up to where it may commit."""

    pauses: frozenset[PauseReason] = frozenset()
    watermark: int | None = None
    fates: int = 0
    """Fates given so far in this epoch: a growing figure, for the commit policy."""
    note: GuardNote = NO_NOTE
    """Of the crash guard; a change of it is committed at once."""
    settled: Ranges | None = None
    """Once the epoch ends: what has its fate above the watermark. None: what was inherited."""
    is_published: bool = True


UNSAID = Wanted(is_published=False)
"""What is wanted of a claim of which the loop has said nothing yet."""


class WantedBoard:
    """Wanted state by claim, and the room there is. Written on the loop, read by the consumer
    thread.

    Each write replaces one dict entry or one attribute: atomic under the interpreter's lock.
    """

    def __init__(self, room_messages: int) -> None:
        self.most_messages = room_messages
        self.room_messages = room_messages
        self.taken_messages = 0
        """Of those handed over, how many ``room_messages`` knows of."""
        self.notes = 0
        """Changes of guard notes so far: while it grows, the consumer thread looks more often."""
        self._wanted: dict[Claim, Wanted] = {}

    def publish(self, claim: Claim, wanted: Wanted) -> None:
        """Say what is wanted of a claim from now on."""
        self._wanted[claim] = wanted

    def read(self, claim: Claim) -> Wanted:
        """What is wanted of a claim; nothing special when never published."""
        return self._wanted.get(claim, UNSAID)

    def forget(self, claim: Claim) -> None:
        """The claim's epoch is over."""
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
    """What the consumer thread knows of a partition; None is unknown."""

    claim: Claim
    position: int | None
    committed: int | None
    high_watermark: int | None
    is_paused: bool
