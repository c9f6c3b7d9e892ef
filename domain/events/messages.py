"""What happens to a message, from hand-over to fate, and to its dead letter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from domain.events.base import Event, kind
from domain.letter import LetterContent
from domain.value import value


@kind("consumed")
@value(frozen=True, slots=True, kw_only=True)
class Consumed(Event):
    """A message was handed over."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    size_bytes: int


@kind("arranged")
@value(frozen=True, slots=True, kw_only=True)
class Arranged(Event):
    """The handler turned a message into these tasks (none: it is filtered)."""

    topic: str
    partition: int
    offset: int
    task_ids: Sequence[str]
    labels: Mapping[str, str]
    duration_ms: float
    batch_messages: int


@kind("message_completed")
@value(frozen=True, slots=True, kw_only=True)
class MessageCompleted(Event):
    """A message got its fate; ``duration_ms`` counts from its hand-over."""

    topic: str
    partition: int
    offset: int
    fate: str
    duration_ms: float
    reason: str


@kind("dead_lettered")
@value(frozen=True, slots=True, kw_only=True)
class DeadLettered(Event):
    """A letter was written to the dead-letter topic at ``letter_partition:letter_offset``.

    ``traceback`` is that of the handler's error, bounded and masked; empty where none raised.
    """

    topic: str
    partition: int
    offset: int
    task_id: str | None
    sink: str | None
    stage: str
    failure: str
    reason: str
    attempts: int
    letter_topic: str
    letter_partition: int
    letter_offset: int
    timestamp: int
    delivery_id: str
    content: LetterContent
    traceback: str = ""


@kind("replayed")
@value(frozen=True, slots=True, kw_only=True)
class Replayed(Event):
    """A dead letter was sent again; ``edited`` names what a person changed of it, or is null."""

    topic: str
    partition: int
    offset: int
    target: str
    actor: str
    edited: tuple[str, ...] | None


@kind("resolved")
@value(frozen=True, slots=True, kw_only=True)
class Resolved(Event):
    """A dead letter was closed by an operator."""

    topic: str
    partition: int
    offset: int
    actor: str
    reason: str
