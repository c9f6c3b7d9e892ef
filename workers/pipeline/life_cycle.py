"""Life cycles of messages and tasks: their states, the ways between them, what is held of each.

The drawings, and what each state means to an operator: docs/life-cycle.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from domain.decision import DeadLetter, Skip
from domain.deferral import Deferral
from domain.failure import TaskFailure
from domain.fanout import FanOut
from domain.fate import Fate
from domain.message import Message, Record
from domain.origin import MessageOrigin
from domain.task import Task, TaskResult
from domain.value import value
from workers.executor.base import Exit
from workers.handler import MessageGroup

if TYPE_CHECKING:
    from workers.pipeline.partition import PartitionWorker


class MessageState(StrEnum):
    """State of a message between hand-over and fate."""

    HELD = "held"
    """Of the retry topic, and not due yet."""
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
    DEFERRING = "deferring"
    """Some of its tasks run again later; it is being written to the retry topic."""
    DEAD_LETTERING = "dead_lettering"
    """It never had a task; its dead letter waits to be written."""
    SETTLED = "settled"
    """It has its fate."""
    LEFT = "left"
    """The epoch ended before it had one: the next owner reads it again."""


_S = MessageState
MESSAGE_TRANSITIONS: Mapping[MessageState, frozenset[MessageState]] = {
    _S.HELD: frozenset({_S.WAITING, _S.LEFT}),
    _S.WAITING: frozenset({_S.ARRANGING, _S.DEAD_LETTERING, _S.SETTLED, _S.LEFT}),
    _S.ARRANGING: frozenset({_S.RUNNING, _S.UNPARSED, _S.DEAD_LETTERING, _S.SETTLED, _S.LEFT}),
    _S.UNPARSED: frozenset({_S.WAITING, _S.LEFT}),
    _S.RUNNING: frozenset({_S.COMPLETING, _S.IN_BATCH, _S.DEFERRING, _S.SETTLED, _S.LEFT}),
    _S.COMPLETING: frozenset({_S.IN_BATCH, _S.SETTLED, _S.LEFT}),
    _S.IN_BATCH: frozenset({_S.COMPLETING_BATCH, _S.LEFT}),
    _S.COMPLETING_BATCH: frozenset({_S.SETTLED, _S.LEFT}),
    _S.DEFERRING: frozenset({_S.RUNNING, _S.SETTLED, _S.LEFT}),
    _S.DEAD_LETTERING: frozenset({_S.SETTLED, _S.LEFT}),
    _S.SETTLED: frozenset(),
    _S.LEFT: frozenset(),
}
"""Each state of a message with those that may follow it."""


class TaskState(StrEnum):
    """Where a task stands between arrange and its end."""

    QUEUED = "queued"
    """Waits for a slot."""
    RUNNING = "running"
    """Its program runs."""
    JUDGING = "judging"
    """An attempt failed; the handler's ``on_error`` is asked."""
    RETRYING = "retrying"
    """Waits to run again: for its back-off, or for a program that cannot be started."""
    COLLECTING = "collecting"
    """An attempt ended well; the handler's ``collect`` is asked."""
    DELIVERING = "delivering"
    """What ``collect`` gave is on its way."""
    WITHHELD = "withheld"
    """Its dead letter may not be written yet: it would make a flood."""
    DEAD_LETTERING = "dead_lettering"
    """Its dead letter is on its way."""
    ENDED = "ended"
    """Its messages count it as ended, or others took its place."""
    LEFT = "left"
    """Cancelled with its epoch: the next owner makes it again."""


_T = TaskState
_CANCELLED = frozenset({_T.ENDED, _T.DEAD_LETTERING, _T.LEFT})
"""An operator skips it, an operator has its letter written, or its epoch ended."""
TASK_TRANSITIONS: Mapping[TaskState, frozenset[TaskState]] = {
    _T.QUEUED: _CANCELLED | {_T.RUNNING},
    _T.RUNNING: _CANCELLED | {_T.COLLECTING, _T.JUDGING, _T.RETRYING, _T.QUEUED},
    _T.JUDGING: _CANCELLED | {_T.RETRYING, _T.WITHHELD},
    _T.RETRYING: _CANCELLED | {_T.QUEUED},
    _T.COLLECTING: frozenset({_T.DELIVERING, _T.WITHHELD, _T.ENDED, _T.LEFT}),
    _T.DELIVERING: frozenset({_T.WITHHELD, _T.ENDED, _T.LEFT}),
    _T.WITHHELD: _CANCELLED,
    _T.DEAD_LETTERING: frozenset({_T.ENDED, _T.LEFT}),
    _T.ENDED: frozenset(),
    _T.LEFT: frozenset(),
}
"""Each state of a task with those that may follow it."""

LEAVING = frozenset({_T.COLLECTING, _T.DELIVERING, _T.DEAD_LETTERING})
"""Something of the task is on its way out: an operator can cancel it no more."""
WORKING = LEAVING | {_T.RUNNING, _T.JUDGING}
"""Some work is done for the task now."""


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
    deferral: Deferral | None = None
    """State with which it came from the retry topic; None: it lives its first life."""
    again: list[DeferredTask] = field(default_factory=list)
    """Its tasks that have ended, and run again later."""
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


@value(frozen=True, slots=True, kw_only=True)
class DeferredTask:
    """A task that runs again from ``due_at`` on, UTC epoch seconds; ``attempt`` is its last."""

    task: Task
    attempt: int
    due_at: float


@dataclass(slots=True, kw_only=True, eq=False)
class Batch:
    """The messages of one arrange call, where the handler has ``on_batch_complete``."""

    messages: Sequence[LiveMessage]
    open: int
    """Number of them that have not ended."""


@dataclass(slots=True, kw_only=True, eq=False)
class LiveTask:
    """A task between arrange and its end; owned by its partition's worker."""

    partition: PartitionWorker = field(repr=False)
    task: Task
    messages: Sequence[LiveMessage]
    priority: float
    queued_at: float
    state: TaskState = TaskState.QUEUED
    attempt: int = 0
    lost_runs: int = 0
    slot: int | None = None
    handle: asyncio.Task[None] | None = field(default=None, repr=False)
    rests_seconds: float | None = None
    """How long it waits before it first runs here; None: it does not."""
    pid: int | None = None
    """Process of the attempt that runs, on the host; None: none, or unknown."""
    progress: float | None = None
    """How far the attempt that runs says it is, 0 to 1; None: it did not say."""
    note: str = ""
    """What it says it is doing; empty: nothing."""
    is_launched: bool = False
    """Whether its attempt is in the executor's hands."""
    verdict: Skip | DeadLetter | None = None
    """What an operator who cancelled it decided."""
    cut_short: Exit | None = None
    """How the process of a cancelled attempt ended; None: it had none."""

    def enter(self, state: TaskState) -> None:
        """Go on to a state. Raises NoSuchTransition when that does not follow this one, and
        CancelledError once the epoch is over: a hook may swallow its cancellation (law 6)."""
        if self.is_fenced and state is not TaskState.LEFT:
            raise asyncio.CancelledError
        if state not in TASK_TRANSITIONS[self.state]:
            raise NoSuchTransition(f"task {self.task.id}: {self.state} to {state}")
        self.state = state

    def requeue(self, now: float) -> None:
        """Wait for a slot once more."""
        self.enter(TaskState.QUEUED)
        self.queued_at = now
        self.slot = self.pid = self.progress = None
        self.note = ""

    def waited_ms(self, until: float) -> float:
        """Return for how long it waited for a slot, in milliseconds."""
        return max(0.0, (until - self.queued_at) * 1000.0)

    @property
    def is_fenced(self) -> bool:
        """Whether the epoch is over: nothing that comes of the task counts."""
        return self.messages[0].state is MessageState.LEFT

    def cancel(self) -> None:
        """Raise CancelledError where it waits."""
        if self.handle is not None:
            self.handle.cancel()


@value(frozen=True, slots=True, kw_only=True)
class TaskEnd:
    """How a task ended: its fate, or the tasks that took its place; ``deferred`` of one that has
    none yet, but runs again later."""

    fate: Fate
    result: TaskResult | None = None
    failure: TaskFailure | None = None
    replaced_by: Sequence[Task] | None = None
    deferred: DeferredTask | None = None

    @property
    def output_bytes(self) -> int:
        """What it holds of a program's output."""
        failed = self.failure.result if self.failure is not None else None
        held = self.result if self.result is not None else failed
        return 0 if held is None else len(held.stdout) + len(held.stderr)


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
