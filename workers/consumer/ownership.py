"""What may cross the border between the consumer thread and the loop.

From loop to owner: wanted state (read each slice), and few commands. From owner to loop: records,
new claims, and requests to end epochs. Rebalances eat commands, so state is published, not sent.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, Protocol

from domain.commit import CommitMetadata
from domain.message import Record
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
class Assignment:
    """A claim just made: where it starts, what was committed, what this owner begins with."""

    claim: Claim
    start_offset: int | None
    committed: int | None
    metadata: CommitMetadata


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionFigures:
    """What the consumer thread knows of a partition; None is unknown."""

    claim: Claim
    position: int | None
    committed: int | None
    high_watermark: int | None
    is_paused: bool


class EndReason(StrEnum):
    """Why epochs end."""

    REVOKED = "revoked"
    STOPPED = "stopped"
    RESTARTED = "restarted"


@dataclass(slots=True, kw_only=True)
class EndRequest:
    """The owner asks the loop to end these epochs by a deadline, and waits for every answer.

    ``deadline`` is on ``time.monotonic``. The loop calls ``ended`` once per claim after its last
    ``publish``; the consumer thread waits on ``wait`` in slices, serving other partitions
    meanwhile.
    """

    claims: Sequence[Claim]
    deadline: float
    reason: EndReason
    _open: set[Claim] = field(init=False)
    _changed: threading.Condition = field(init=False, default_factory=threading.Condition)

    def __post_init__(self) -> None:
        self._open = set(self.claims)

    def ended(self, claim: Claim) -> None:
        """The loop is done with this claim."""
        with self._changed:
            self._open.discard(claim)
            self._changed.notify_all()

    def wait(self, timeout_seconds: float) -> bool:
        """Wait a slice; True when every claim has ended."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._open, timeout_seconds)


class OwnerListener(Protocol):
    """What the consumer thread tells. Called on the consumer thread; implementations post to the
    loop.

    None of these may raise or block.
    """

    def joined(self, protocol: str) -> None:
        """The group protocol in force, once known; told before the first assignment."""

    def waiting(self, detail: str | None) -> None:
        """For what the consumer waits (broker unreachable, topic missing), or None: no longer."""

    def idle(self, detail: str | None) -> None:
        """The member was given no partition for long: an alarm in words, or None: no longer."""

    def assigned(self, assignments: Sequence[Assignment]) -> None:
        """New epochs begin."""

    def handed_over(self, records: Mapping[Claim, Sequence[Record]]) -> None:
        """Records in offset order within each claim."""

    def ending(self, request: EndRequest) -> None:
        """Epochs must end by a deadline: a revoke or the stop of the worker."""

    def lost(self, claims: Sequence[Claim]) -> None:
        """These epochs ended without us: fence, cancel, commit nothing."""

    def committed(self, offsets: Mapping[Claim, int]) -> None:
        """The broker acknowledged these next offsets."""

    def commit_failed(self, code: str, detail: str) -> None:
        """A commit was refused; it is tried again."""

    def noted(self, claim: Claim, number: int) -> None:
        """The group has the guard's note of this number, or a later one."""

    def absolved(self, claim: Claim, metadata: CommitMetadata) -> None:
        """Former owners thought dead live: this is what the owner begins with in truth."""

    def stalled(self, claim: Claim, position: int, end_offset: int) -> None:
        """The position stood still for long with more to read; the client was told to seek."""

    def out_of_range(self, claim: Claim, detail: str) -> None:
        """The partition's offset does not exist any more (or none exists and start_at is error)."""

    def stopped(self) -> None:
        """The consumer thread has closed the consumer and ends."""

    def failed(self, error: BaseException) -> None:
        """The consumer thread died of this: the worker must end."""
