"""The vocabulary of events: everything that happens is told once, as one of these.

A field named like a column of the events table is stored there; any other field goes into ``data``.
``at`` is UTC epoch seconds on the worker's one clock.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import ClassVar, TypeVar

from domain.letter import LetterContent

EventT = TypeVar("EventT", bound="Event")

COLUMNS = (
    "topic",
    "partition",
    "offset",
    "task_id",
    "slot",
    "exit_code",
    "pid",
    "duration_ms",
    "queue_ms",
    "attempt",
    "sink",
    "labels",
    "args",
    "stdout",
    "stderr",
    "stdout_size",
    "stderr_size",
)
"""Columns of the events table that an event may fill, besides ``id ts run seq kind data``: its
other fields are ``data``."""

CARRIED = ("content",)
"""Fields that no event row holds: a projection makes rows of its own of them (recorder.writer)."""

KINDS: dict[str, type[Event]] = {}
"""Every event class by its kind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Base of all events."""

    kind: ClassVar[str]
    at: float


FIELD_NAMES: dict[str, tuple[str, ...]] = {}
"""Field names of each kind, without ``at`` and ``CARRIED``."""


def _kind(kind: str) -> Callable[[type[EventT]], type[EventT]]:
    def register(cls: type[EventT]) -> type[EventT]:
        cls.kind = kind
        KINDS[kind] = cls
        names = (field.name for field in fields(cls))
        FIELD_NAMES[kind] = tuple(name for name in names if name not in ("at", *CARRIED))
        return cls

    return register


@_kind("worker_started")
@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStarted(Event):
    """A run began."""

    cluster: str
    worker: str
    host: str
    pid: int
    version: str
    isolation: str


@_kind("worker_stopped")
@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStopped(Event):
    """A run ended by itself; ``clean`` says that nothing was cut short."""

    clean: bool
    reason: str


@_kind("worker_lost")
@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerLost(Event):
    """The controller judged a run dead: its heartbeat fell silent."""

    lost_run: str
    cluster: str
    worker: str
    silent_seconds: float


@_kind("assigned")
@dataclass(frozen=True, slots=True, kw_only=True)
class Assigned(Event):
    """A partition began an epoch here, from ``offset``."""

    topic: str
    partition: int
    offset: int
    epoch: int
    committed: int | None


@_kind("revoked")
@dataclass(frozen=True, slots=True, kw_only=True)
class Revoked(Event):
    """A partition was given up; ``offset`` is its watermark (None: nothing passed)."""

    topic: str
    partition: int
    offset: int | None
    epoch: int
    reason: str
    dropped_messages: int
    duration_ms: float


@_kind("lost")
@dataclass(frozen=True, slots=True, kw_only=True)
class Lost(Event):
    """A partition was taken away; nothing of its epoch is committed any more."""

    topic: str
    partition: int
    epoch: int
    dropped_messages: int


@_kind("parked")
@dataclass(frozen=True, slots=True, kw_only=True)
class Parked(Event):
    """A partition stopped by an error that is not its messages' fault."""

    topic: str
    partition: int
    offset: int | None
    cause: str
    detail: str
    is_retried: bool


@_kind("unparked")
@dataclass(frozen=True, slots=True, kw_only=True)
class Unparked(Event):
    """A parked partition goes on."""

    topic: str
    partition: int
    cause: str
    reason: str


@_kind("paused")
@dataclass(frozen=True, slots=True, kw_only=True)
class Paused(Event):
    """Fetching of a partition stopped on purpose."""

    topic: str
    partition: int
    reason: str


@_kind("resumed")
@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed(Event):
    """Fetching of a partition went on."""

    topic: str
    partition: int
    reason: str


@_kind("stalled")
@dataclass(frozen=True, slots=True, kw_only=True)
class Stalled(Event):
    """A partition's position stands still though there is more to read."""

    topic: str
    partition: int
    offset: int
    end_offset: int


@_kind("consumed")
@dataclass(frozen=True, slots=True, kw_only=True)
class Consumed(Event):
    """A message was handed over."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    size_bytes: int


@_kind("arranged")
@dataclass(frozen=True, slots=True, kw_only=True)
class Arranged(Event):
    """The handler turned a message into these tasks (none: it is filtered)."""

    topic: str
    partition: int
    offset: int
    task_ids: Sequence[str]
    labels: Mapping[str, str]
    duration_ms: float
    batch_messages: int


@_kind("task_started")
@dataclass(frozen=True, slots=True, kw_only=True)
class TaskStarted(Event):
    """An attempt took a slot."""

    topic: str
    partition: int
    offset: int
    task_id: str
    slot: int | None
    attempt: int
    queue_ms: float
    labels: Mapping[str, str]
    args: Sequence[str]
    source_offsets: Sequence[int]


@_kind("task_completed")
@dataclass(frozen=True, slots=True, kw_only=True)
class TaskCompleted(Event):
    """An attempt ended well."""

    topic: str
    partition: int
    offset: int
    task_id: str
    slot: int | None
    attempt: int
    exit_code: int | None
    pid: int | None
    duration_ms: float
    queue_ms: float
    labels: Mapping[str, str]
    args: Sequence[str]
    stdout: bytes
    stderr: bytes
    stdout_size: int
    stderr_size: int
    started_at: float
    user_cpu_seconds: float
    system_cpu_seconds: float
    max_rss_bytes: int


@_kind("task_failed")
@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFailed(Event):
    """An attempt did not end well."""

    topic: str
    partition: int
    offset: int
    task_id: str
    slot: int | None
    attempt: int
    exit_code: int | None
    pid: int | None
    duration_ms: float
    queue_ms: float
    labels: Mapping[str, str]
    args: Sequence[str]
    stdout: bytes
    stderr: bytes
    stdout_size: int
    stderr_size: int
    started_at: float
    user_cpu_seconds: float
    system_cpu_seconds: float
    max_rss_bytes: int
    failure: str
    detail: str


@_kind("task_retried")
@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRetried(Event):
    """A failed task will run again after ``delay_ms``."""

    topic: str
    partition: int
    offset: int
    task_id: str
    attempt: int
    delay_ms: float
    failure: str


@_kind("task_replaced")
@dataclass(frozen=True, slots=True, kw_only=True)
class TaskReplaced(Event):
    """A failed task was replaced by others."""

    topic: str
    partition: int
    offset: int
    task_id: str
    attempt: int
    task_ids: Sequence[str]


@_kind("task_cancelled")
@dataclass(frozen=True, slots=True, kw_only=True)
class TaskCancelled(Event):
    """A task was ended before its time (epoch over, operator)."""

    topic: str
    partition: int
    offset: int
    task_id: str
    attempt: int
    slot: int | None
    reason: str


@_kind("collected")
@dataclass(frozen=True, slots=True, kw_only=True)
class Collected(Event):
    """A hook turned results into payloads."""

    topic: str
    partition: int
    offset: int
    task_id: str | None
    hook: str
    payloads: int
    duration_ms: float


@_kind("delivered")
@dataclass(frozen=True, slots=True, kw_only=True)
class Delivered(Event):
    """A sink stored a payload."""

    topic: str
    partition: int
    offset: int
    task_id: str | None
    sink: str
    sink_kind: str
    delivery_id: str
    attempt: int
    duration_ms: float
    queue_ms: float


@_kind("delivery_failed")
@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryFailed(Event):
    """An attempt to store a payload failed, or the payload was given up."""

    topic: str
    partition: int
    offset: int
    task_id: str | None
    sink: str
    sink_kind: str
    delivery_id: str
    attempt: int
    is_transient: bool
    detail: str


@_kind("dead_lettered")
@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLettered(Event):
    """A letter was written to the dead-letter topic at ``letter_partition:letter_offset``."""

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


@_kind("message_completed")
@dataclass(frozen=True, slots=True, kw_only=True)
class MessageCompleted(Event):
    """A message got its fate; ``duration_ms`` counts from its hand-over."""

    topic: str
    partition: int
    offset: int
    fate: str
    duration_ms: float
    reason: str


@_kind("committed")
@dataclass(frozen=True, slots=True, kw_only=True)
class Committed(Event):
    """The broker acknowledged a commit: ``offset`` is the next one to read."""

    topic: str
    partition: int
    offset: int
    epoch: int


@_kind("breaker_opened")
@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerOpened(Event):
    """A sink failed too often in a row; it rests until a probe."""

    sink: str
    sink_kind: str
    failures: int
    detail: str


@_kind("breaker_closed")
@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerClosed(Event):
    """A sink works again."""

    sink: str
    sink_kind: str
    duration_ms: float


@_kind("spawner_lost")
@dataclass(frozen=True, slots=True, kw_only=True)
class SpawnerLost(Event):
    """A spawner process died; its unfinished tasks run again."""

    pid: int
    tasks: int
    detail: str


@_kind("hook_slow")
@dataclass(frozen=True, slots=True, kw_only=True)
class HookSlow(Event):
    """A handler hook took longer than a second."""

    topic: str
    partition: int
    hook: str
    duration_ms: float


@_kind("periodic_run")
@dataclass(frozen=True, slots=True, kw_only=True)
class PeriodicRun(Event):
    """A periodic job ran."""

    name: str
    status: str
    duration_ms: float
    detail: str


@_kind("control")
@dataclass(frozen=True, slots=True, kw_only=True)
class Control(Event):
    """An operator's request was obeyed or refused."""

    action: str
    target: str
    outcome: str
    request: str
    detail: str


@_kind("replayed")
@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed(Event):
    """A dead letter was sent again."""

    topic: str
    partition: int
    offset: int
    target: str
    actor: str


@_kind("resolved")
@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved(Event):
    """A dead letter was closed by an operator."""

    topic: str
    partition: int
    offset: int
    actor: str
    reason: str


@_kind("recorder_shed")
@dataclass(frozen=True, slots=True, kw_only=True)
class RecorderShed(Event):
    """Events that could not be kept, by kind."""

    shed: Mapping[str, int]
    first_seq: int
    last_seq: int


Tell = Callable[[Event], None]
"""Where events go. Called on the worker's loop thread only; never raises, never blocks."""


def tell_each(*listeners: Tell) -> Tell:
    """One ``Tell`` that passes each event to every listener in order."""

    def tell(event: Event) -> None:
        for listener in listeners:
            listener(event)

    return tell


def ignore(event: Event) -> None:
    """A listener that wants nothing."""
