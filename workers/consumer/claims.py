"""Partitions held by the consumer thread, by claim: nothing of an old epoch can be committed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count

from domain.commit import NO_METADATA, CommitMetadata
from domain.message import Record
from workers.broker.base import Broker, Start, TopicPartition
from workers.consumer.ownership import Claim, PauseReason, Wanted, WantedBoard
from workers.consumer.policy import ConsumerPolicy
from workers.consumer.signals import Post


@dataclass(slots=True, kw_only=True)
class ClaimState:
    """One claim: what was handed over, stored and acknowledged of it (all next offsets)."""

    claim: Claim
    key: TopicPartition
    start: int | Start
    assigned_at: float
    handed: int | None = None
    stored: int | None = None
    acknowledged: int | None = None
    taken: int = 0
    """Number of messages handed over."""
    fates: int = 0
    is_paused: bool = False
    is_standing: bool = False
    first: int | None = None
    metadata: CommitMetadata = NO_METADATA
    last_sent: CommitMetadata | None = None
    """Metadata last sent to the group; None if it may not have them."""
    encoded: str = ""
    """``last_sent`` as text."""
    note: int = 0
    """Number of the guard note in ``metadata``."""
    note_sent: int = 0
    """Number of the guard note in ``last_sent``."""
    notes_sent: deque[tuple[str, int]] = field(default_factory=lambda: deque(maxlen=32))
    """Encoded metadata under way with the number of the guard note in each, oldest first."""
    acknowledged_metadata: str = ""
    """Encoded metadata last acknowledged."""
    has_left: bool = False
    refused_since: float | None = None
    """Time since which every commit of it was refused; None: the last answer was another one."""
    refusal: str = ""

    @property
    def committed(self) -> int | None:
        """Offset that the group is known to have; of a partition without a commit its first one,
        once the metadata that were sent with it are acknowledged."""
        if self.acknowledged is None and self.stored is None and self.acknowledged_metadata:
            return self.first
        return self.acknowledged

    @property
    def settled_offset(self) -> int | None:
        """Offset that may be committed again without moving forward; None: not now."""
        if self.stored is None:
            return self.first if self.acknowledged is None else self.acknowledged
        return self.stored if self.stored == self.acknowledged else None

    def learn(self, wanted: Wanted, lost: tuple[int, ...], *, offset: int | None) -> None:
        """Bring ``metadata`` up to what the loop wants, and to the partitions ``lost``.

        ``offset`` is what they are committed with; None: nothing passed yet. Ranges that are told
        above a higher watermark wait for it, since those below them would be done again.
        """
        metadata = self.metadata
        if (metadata.has_left, metadata.lost) != (self.has_left, lost):
            metadata = replace(metadata, has_left=self.has_left, lost=lost)
        if wanted.is_published:
            is_paused = PauseReason.OPERATOR in wanted.pauses
            if metadata.is_paused != is_paused:
                metadata = replace(metadata, is_paused=is_paused)
            note = wanted.note
            if self.note != note.number:
                self.note = note.number
                metadata = replace(
                    metadata,
                    mark=note.mark,
                    running=note.running,
                    task=note.task,
                    is_alone=note.is_alone,
                )
            settled, watermark = wanted.settled, wanted.watermark
            is_level = watermark is None or (offset is not None and watermark <= offset)
            if settled is not None and is_level and settled != metadata.settled:
                metadata = replace(metadata, settled=settled)
        self.metadata = metadata

    def encode(self) -> str:
        """Return ``metadata`` as text."""
        return self.encoded if self.metadata is self.last_sent else self.metadata.encode()

    @property
    def resume_at(self) -> int | Start:
        """Offset to fetch from when the client's own position cannot be trusted."""
        return self.start if self.handed is None else self.handed


@dataclass(slots=True)
class Claims:
    """Claims by partition. Epochs grow with each assign and never repeat: a worker that joins its
    group again gives its next consumer the same ``epochs``."""

    epochs: Iterator[int] = field(default_factory=lambda: count(1))
    _held: dict[TopicPartition, ClaimState] = field(default_factory=dict)

    def begin(self, key: TopicPartition, start: int | Start, now: float) -> ClaimState:
        """Make a claim of a new epoch."""
        claim = Claim(*key, next(self.epochs))
        held = ClaimState(claim=claim, key=key, start=start, assigned_at=now)
        self._held[key] = held
        return held

    def end(self, keys: Sequence[TopicPartition]) -> list[Claim]:
        """Fence these: forget them, and with them all that was pending."""
        found = [self._held.pop(key) for key in keys if key in self._held]
        return [held.claim for held in found]

    def clear(self) -> None:
        """Forget everything: the client is gone."""
        self._held.clear()

    def of(self, keys: Sequence[TopicPartition]) -> list[ClaimState]:
        """Return the claims on these partitions."""
        return [self._held[key] for key in keys if key in self._held]

    def get(self, key: TopicPartition) -> ClaimState | None:
        """Return the claim on a partition, if any."""
        return self._held.get(key)

    def __iter__(self) -> Iterator[ClaimState]:
        return iter(list(self._held.values()))

    def take(self, records: Sequence[Record]) -> dict[Claim, list[Record]]:
        """Sort records to their claims; what has no claim or was handed before is left out."""
        sorted_records: dict[Claim, list[Record]] = {}
        for record in records:
            held = self._held.get(TopicPartition(record.topic, record.partition))
            if held is None or (held.handed is not None and record.offset < held.handed):
                continue
            held.handed = record.offset + 1
            held.taken += 1
            if held.first is None:
                held.first = record.offset
            sorted_records.setdefault(held.claim, []).append(record)
        return sorted_records


@dataclass(frozen=True, slots=True)
class ConsumerParts:
    """Shared by the parts of a consumer thread; ``clock`` is monotonic seconds."""

    broker: Broker
    post: Post
    board: WantedBoard
    claims: Claims
    policy: ConsumerPolicy
    clock: Callable[[], float]
