"""The life of one message in one epoch: its states, the ways between them, what is held of it.

The drawing, and what each state means to an operator: docs/life-cycle.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from domain.fanout import FanOut
from domain.message import Message, Record
from domain.origin import MessageOrigin
from domain.task import TaskResult
from workers.handler import MessageGroup, TaskFailure


class MessageState(StrEnum):
    """State of a message between hand-over and fate."""

    WAITING = "waiting"
    """Handed over; its turn to be arranged has not come."""
    ARRANGING = "arranging"
    """Parsed, and in the handler's ``arrange``."""
    UNPARSED = "unparsed"
    """``parse`` refused it, and its partition is parked for that."""
    RUNNING = "running"
    """Some of its tasks have not ended."""
    COMPLETING = "completing"
    """In ``on_message_complete``, or what that gave is on its way."""
    IN_BATCH = "in_batch"
    """Ended, but for its batch."""
    COMPLETING_BATCH = "completing_batch"
    """In ``on_batch_complete``, or what that gave is on its way."""
    DEAD_LETTERING = "dead_lettering"
    """It never had a task; its dead letter waits to be written."""
    SETTLED = "settled"
    """It has its fate."""
    LEFT = "left"
    """The epoch ended before it had one: the next owner reads it again."""


_S = MessageState
MESSAGE_TRANSITIONS: Mapping[MessageState, frozenset[MessageState]] = {
    _S.WAITING: frozenset({_S.ARRANGING, _S.DEAD_LETTERING, _S.SETTLED, _S.LEFT}),
    _S.ARRANGING: frozenset({_S.RUNNING, _S.UNPARSED, _S.DEAD_LETTERING, _S.SETTLED, _S.LEFT}),
    _S.UNPARSED: frozenset({_S.WAITING, _S.LEFT}),
    _S.RUNNING: frozenset({_S.COMPLETING, _S.IN_BATCH, _S.SETTLED, _S.LEFT}),
    _S.COMPLETING: frozenset({_S.IN_BATCH, _S.SETTLED, _S.LEFT}),
    _S.IN_BATCH: frozenset({_S.COMPLETING_BATCH, _S.LEFT}),
    _S.COMPLETING_BATCH: frozenset({_S.SETTLED, _S.LEFT}),
    _S.DEAD_LETTERING: frozenset({_S.SETTLED, _S.LEFT}),
    _S.SETTLED: frozenset(),
    _S.LEFT: frozenset(),
}
"""Each state with those that may follow it."""


class NoSuchTransition(RuntimeError):
    """A message or task was to enter a state that does not follow the one it is in."""


@dataclass(slots=True, kw_only=True, eq=False)
class LiveMessage:
    """A message between hand-over and fate; owned by its partition's worker."""

    record: Record
    handed_at: float
    size_bytes: int
    """Bytes that it is charged: the record, and the output kept for its completion hooks."""
    state: MessageState = MessageState.WAITING
    parsed: Message[Any] | None = None
    parts: FanOut | None = None
    tasks: set[str] = field(default_factory=set)
    shared_with: Mapping[int, MessageOrigin] = field(default_factory=dict)
    """Origins by offset of all messages that tasks of this one serve, too; empty without fan-in.
    Never changed in place: the messages of one task have one object."""
    results: list[TaskResult] = field(default_factory=list)
    failures: list[TaskFailure] = field(default_factory=list)
    batch: Batch | None = None
    is_out: bool = False
    """Something of it is out, or about to be: a payload or a letter."""
    reason: str = ""
    """Why its fate is none of the ordinary ones; empty: it is."""

    def enter(self, state: MessageState) -> None:
        """Go on to a state. Raises NoSuchTransition when that does not follow this one."""
        if state not in MESSAGE_TRANSITIONS[self.state]:
            raise NoSuchTransition(f"offset {self.record.offset}: {self.state} to {state}")
        self.state = state

    def group(self) -> MessageGroup[Any]:
        """Return what the completion hooks see of a parsed message."""
        assert self.parsed is not None
        return MessageGroup(
            message=self.parsed, results=tuple(self.results), failures=tuple(self.failures)
        )


@dataclass(slots=True, kw_only=True, eq=False)
class Batch:
    """The messages of one arrange call, where the handler has ``on_batch_complete``."""

    messages: Sequence[LiveMessage]
    open: int
    """Number of them that have not ended."""


def share(messages: Sequence[LiveMessage], cluster: str) -> None:
    """Note in each of these messages that one task serves them all."""
    origins = {one.record.offset: MessageOrigin.of(one.record, cluster) for one in messages}
    for one in messages:
        one.shared_with = {**one.shared_with, **origins} if one.shared_with else origins


def shared(messages: Iterable[LiveMessage]) -> list[Mapping[int, MessageOrigin]]:
    """Each distinct ``shared_with`` once: a task of a thousand messages has one, not a thousand."""
    found = {id(one.shared_with): one.shared_with for one in messages if one.shared_with}
    return list(found.values())


def offsets_of(messages: Iterable[LiveMessage]) -> set[int]:
    """Return the offsets of messages."""
    return {one.record.offset for one in messages}
