"""What happens to a partition and its epochs."""

from __future__ import annotations

from domain.events.base import Event, kind
from domain.parking import ParkingCause
from domain.value import value


@kind("assigned")
@value(frozen=True, slots=True, kw_only=True)
class Assigned(Event):
    """A partition began an epoch here, from ``offset`` (None: the group has none yet)."""

    topic: str
    partition: int
    offset: int | None
    epoch: int
    committed: int | None


@kind("revoked")
@value(frozen=True, slots=True, kw_only=True)
class Revoked(Event):
    """A partition was given up; ``offset`` is its watermark (None: nothing passed).

    Not ``clean``: the budget ran out, what was out may reach its sink and is done again.
    """

    topic: str
    partition: int
    offset: int | None
    epoch: int
    reason: str
    dropped_messages: int
    clean: bool
    duration_ms: float


@kind("lost")
@value(frozen=True, slots=True, kw_only=True)
class Lost(Event):
    """A partition was taken away; nothing of its epoch is committed any more."""

    topic: str
    partition: int
    epoch: int
    dropped_messages: int


@kind("parked")
@value(frozen=True, slots=True, kw_only=True)
class Parked(Event):
    """A partition stopped by an error that is not its messages' fault."""

    topic: str
    partition: int
    offset: int | None
    cause: ParkingCause
    detail: str
    is_retried: bool


@kind("unparked")
@value(frozen=True, slots=True, kw_only=True)
class Unparked(Event):
    """A parked partition goes on."""

    topic: str
    partition: int
    cause: ParkingCause
    reason: str


@kind("paused")
@value(frozen=True, slots=True, kw_only=True)
class Paused(Event):
    """Fetching of a partition stopped on purpose."""

    topic: str
    partition: int
    reason: str


@kind("resumed")
@value(frozen=True, slots=True, kw_only=True)
class Resumed(Event):
    """Fetching of a partition went on."""

    topic: str
    partition: int
    reason: str


@kind("stalled")
@value(frozen=True, slots=True, kw_only=True)
class Stalled(Event):
    """A partition's position stands still though there is more to read."""

    topic: str
    partition: int
    offset: int
    end_offset: int


@kind("committed")
@value(frozen=True, slots=True, kw_only=True)
class Committed(Event):
    """The broker acknowledged a commit: ``offset`` is the next one to read."""

    topic: str
    partition: int
    offset: int
    epoch: int
