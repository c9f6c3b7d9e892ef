"""What happens to a task and its attempts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from domain.events.base import Event, kind
from domain.value import value


@kind("task_started")
@value(frozen=True, slots=True, kw_only=True)
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


@value(frozen=True, slots=True, kw_only=True)
class AttemptEnded(Event):
    """What both ends of an attempt tell; no kind of its own."""

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


@kind("task_completed")
@value(frozen=True, slots=True, kw_only=True)
class TaskCompleted(AttemptEnded):
    """An attempt ended well."""


@kind("task_failed")
@value(frozen=True, slots=True, kw_only=True)
class TaskFailed(AttemptEnded):
    """An attempt did not end well."""

    failure: str
    detail: str


@kind("task_retried")
@value(frozen=True, slots=True, kw_only=True)
class TaskRetried(Event):
    """A failed task will run again after ``delay_ms``."""

    topic: str
    partition: int
    offset: int
    task_id: str
    attempt: int
    delay_ms: float
    failure: str


@kind("task_replaced")
@value(frozen=True, slots=True, kw_only=True)
class TaskReplaced(Event):
    """A failed task was replaced by others."""

    topic: str
    partition: int
    offset: int
    task_id: str
    attempt: int
    task_ids: Sequence[str]


@kind("task_cancelled")
@value(frozen=True, slots=True, kw_only=True)
class TaskCancelled(Event):
    """An attempt was ended before its time (epoch over, operator), or could not begin (program
    missing)."""

    topic: str
    partition: int
    offset: int
    task_id: str
    attempt: int
    slot: int | None
    reason: str


@kind("collected")
@value(frozen=True, slots=True, kw_only=True)
class Collected(Event):
    """A hook turned results into payloads."""

    topic: str
    partition: int
    offset: int
    task_id: str | None
    hook: str
    payloads: int
    duration_ms: float
