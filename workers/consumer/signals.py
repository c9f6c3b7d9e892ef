"""Signals of the consumer thread to the loop: one union, posted in order.

The other way goes wanted state (``ownership``): rebalances eat commands.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from domain.commit import CommitMetadata
from domain.message import Record
from workers.consumer.ownership import Claim


@dataclass(frozen=True, slots=True)
class GroupJoined:
    """Group protocol in force: told once known, before the first assignment."""

    protocol: str


@dataclass(frozen=True, slots=True)
class WaitingFor:
    """Thing the consumer waits for (broker, topic, commits); None: for nothing any more."""

    detail: str | None


@dataclass(frozen=True, slots=True)
class NothingAssigned:
    """Alarm of a member that was given no partition for long; None: it is over."""

    detail: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """A claim just made: where it starts, what was committed, what this owner begins with."""

    claim: Claim
    start_offset: int | None
    committed: int | None
    metadata: CommitMetadata


@dataclass(frozen=True, slots=True)
class EpochsBegun:
    """New epochs."""

    assignments: Sequence[Assignment]


@dataclass(frozen=True, slots=True)
class RecordsFetched:
    """Records in offset order within each claim."""

    records: Mapping[Claim, Sequence[Record]]


class EndReason(StrEnum):
    """Reason why epochs end."""

    REVOKED = "revoked"
    STOPPED = "stopped"
    RESTARTED = "restarted"


@dataclass(frozen=True, slots=True, kw_only=True)
class EndRequest:
    """Epochs that must end by a deadline (of ``time.monotonic``): the consumer thread waits.

    The loop calls ``ended`` once per claim after its last ``publish``; the consumer thread waits on
    ``wait`` in slices, serving other partitions meanwhile.
    """

    claims: Sequence[Claim]
    deadline: float
    reason: EndReason
    _open: set[Claim] = field(init=False, default_factory=set)
    _changed: threading.Condition = field(init=False, default_factory=threading.Condition)

    def __post_init__(self) -> None:
        self._open.update(self.claims)

    def ended(self, claim: Claim) -> None:
        """Note that the loop is done with this claim."""
        with self._changed:
            self._open.discard(claim)
            self._changed.notify_all()

    def wait(self, timeout_seconds: float) -> bool:
        """Wait a slice; True when every claim has ended."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._open, timeout_seconds)


@dataclass(frozen=True, slots=True)
class EpochsLost:
    """Epochs that ended without us: fence, cancel, commit nothing."""

    claims: Sequence[Claim]


@dataclass(frozen=True, slots=True)
class OffsetsCommitted:
    """Next offsets that the broker acknowledged."""

    offsets: Mapping[Claim, int]


@dataclass(frozen=True, slots=True)
class CommitRefused:
    """A commit the broker refused; it is tried again. ``code`` is Kafka's name of the error."""

    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class NoteCommitted:
    """Number of the newest guard note that the group has."""

    claim: Claim
    number: int


@dataclass(frozen=True, slots=True)
class DeathsTakenBack:
    """Former owners thought dead live: what this owner begins with in truth."""

    claim: Claim
    metadata: CommitMetadata


@dataclass(frozen=True, slots=True)
class FetchStalled:
    """A position that stood still for long with more to read; the client was told to seek."""

    claim: Claim
    position: int
    end_offset: int


@dataclass(frozen=True, slots=True)
class OffsetMissing:
    """Partition without the offset: it is gone, or none is committed and ``start_at`` is error."""

    claim: Claim
    detail: str


@dataclass(frozen=True, slots=True)
class ConsumerClosed:
    """End of the consumer thread: the consumer is closed."""


@dataclass(frozen=True, slots=True)
class ConsumerFailed:
    """Error the consumer thread died of: the worker must end."""

    error: BaseException


ConsumerSignal = (
    GroupJoined
    | WaitingFor
    | NothingAssigned
    | EpochsBegun
    | RecordsFetched
    | EndRequest
    | EpochsLost
    | OffsetsCommitted
    | CommitRefused
    | NoteCommitted
    | DeathsTakenBack
    | FetchStalled
    | OffsetMissing
    | ConsumerClosed
    | ConsumerFailed
)

Post = Callable[[ConsumerSignal], None]
"""Takes a signal on the consumer thread; neither blocks nor raises."""
