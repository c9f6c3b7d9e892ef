"""What one partition holds of its messages."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from domain.backpressure import Budget
from domain.events import Tell
from domain.fanout import FanOut
from domain.message import Message, Record
from domain.origin import MessageOrigin
from domain.task import TaskResult
from sinks.dead_letter import DeadLetterWriter
from sinks.router import Router
from workers.clock import Clock
from workers.consumer.ownership import Claim, WantedBoard
from workers.handler import Handler, MessageGroup, TaskFailure
from workers.pipeline.arranging import Arranging
from workers.pipeline.hooks import Hooks
from workers.pipeline.task_run import TaskRunner

Spawn = Callable[[Coroutine[Any, Any, None]], "asyncio.Task[None]"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionTools:
    """What all partitions of a worker share."""

    cluster: str
    handler: Handler[Any]
    hooks: Hooks
    arranging: Arranging
    runner: TaskRunner
    router: Router
    dead_letters: DeadLetterWriter
    board: WantedBoard
    budget: Budget[Claim]
    clock: Clock
    tell: Tell
    spawn: Spawn
    max_batch_messages: int
    batch_linger_seconds: float


@dataclass(slots=True, kw_only=True, eq=False)
class MessageState:
    """A message between hand-over and fate."""

    record: Record
    handed_at: float
    size_bytes: int
    """What it is charged: the record, and the output kept for its completion hooks."""
    message: Message[Any] | None = None
    parts: FanOut | None = None
    tasks: set[str] = field(default_factory=set)
    shared_with: Mapping[int, MessageOrigin] = field(default_factory=dict)
    """Origins by offset of all messages that tasks of this one serve, too; empty without fan-in.
    Never changed in place: the messages of one task have one object."""
    results: list[TaskResult] = field(default_factory=list)
    failures: list[TaskFailure] = field(default_factory=list)
    batch: BatchState | None = None
    is_out: bool = False
    """Something of it is out, or about to be: a payload or a letter."""
    is_in_hook: bool = False
    """A completion hook was asked about it, and what it gave is not delivered yet."""
    has_ended: bool = False
    """All of it has ended but its batch, for which it waits."""
    reason: str = ""

    def group(self) -> MessageGroup[Any]:
        """What the completion hooks see of a parsed message."""
        assert self.message is not None
        return MessageGroup(
            message=self.message, results=tuple(self.results), failures=tuple(self.failures)
        )


@dataclass(slots=True, kw_only=True, eq=False)
class BatchState:
    """The messages of one arrange call, where the handler has ``on_batch_complete``."""

    states: Sequence[MessageState]
    open: int
    """How many of them have not ended."""


def share(states: Sequence[MessageState], cluster: str) -> None:
    """Note in each of these messages that one task serves them all."""
    origins = {state.record.offset: MessageOrigin.of(state.record, cluster) for state in states}
    for state in states:
        state.shared_with = {**state.shared_with, **origins} if state.shared_with else origins


def shared(states: Iterable[MessageState]) -> list[Mapping[int, MessageOrigin]]:
    """Each distinct ``shared_with`` once: a task of a thousand messages has one, not a thousand."""
    found = {id(state.shared_with): state.shared_with for state in states if state.shared_with}
    return list(found.values())
