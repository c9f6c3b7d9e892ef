"""The vocabulary of events: everything that happens is told once, as one of these.

A field named like a column of the events table is stored there; any other field goes into ``data``.
``at`` is UTC epoch seconds on the worker's one clock. The first paragraph of a docstring stands in
docs/events.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from domain.events.base import (
    CARRIED,
    COLUMNS,
    DEPLOY,
    KINDS,
    PAUSE,
    REBALANCE,
    START,
    STOP,
    Event,
    Kind,
    Listeners,
    Severity,
    Shed,
    Shown,
    Tell,
    ignore,
    kind,
    kinds_of,
    status_of,
)
from domain.letter import LetterContent
from domain.parking import ParkingCause
from domain.process_end import ProcessEnd
from domain.value import value

__all__ = [
    "CARRIED",
    "COLUMNS",
    "KINDS",
    "Event",
    "Kind",
    "Listeners",
    "Severity",
    "Shed",
    "Shown",
    "Tell",
    "ignore",
    "kinds_of",
    "status_of",
]

# -- a run of a worker


@value(frozen=True, slots=True, kw_only=True)
class RunEvent(Event):
    """Base of the events of a run, outside its partitions."""


@kind("worker_started", shown=Shown.LIVE, mark=START)
class WorkerStarted(RunEvent):
    """A run began."""

    cluster: str
    worker: str
    host: str
    pid: int
    version: str
    isolation: str
    launcher: str
    cgroups: str
    handler_version: str = ""
    program_version: str = ""


@value(frozen=True, slots=True, kw_only=True)
class RunChanged(RunEvent):
    """Base of what a run was started with otherwise than ``run_before``; each change has ``key``,
    ``old`` and ``new``."""

    cluster: str
    worker: str
    run_before: str
    deployed_by: str
    changes: Sequence[Mapping[str, str | None]]


@kind("version_changed", icon="swap", shown=Shown.LIVE, mark=DEPLOY)
class VersionChanged(RunChanged):
    """A run began with another version of its handler, its program or Drakkar than `run_before`;
    null is unknown."""


@kind("config_changed", icon="swap", shown=Shown.LIVE, mark=DEPLOY)
class ConfigChanged(RunChanged):
    """A run began with another configuration than `run_before`: its keys with their values before
    and after as JSON, secrets masked; null: the key was not there, or is no more."""


@kind("worker_stopped", icon="stop", shown=Shown.LIVE | Shown.TRACE, mark=STOP)
class WorkerStopped(RunEvent):
    """A run ended by itself; ``clean`` says that nothing was cut short."""

    clean: bool
    reason: str


@kind("worker_lost", status="failed", mark=STOP)
class WorkerLost(RunEvent):
    """The controller judged a run dead: its heartbeat fell silent."""

    lost_run: str
    cluster: str
    worker: str
    silent_seconds: float


@kind(
    "spawner_lost",
    "drakkar_spawner_restarts_total",
    severity=Severity.WARNING,
    status="failed",
    shown=Shown.TRACE,
)
class SpawnerLost(RunEvent):
    """A spawner process died; its unfinished tasks run again."""

    pid: int
    tasks: int
    detail: str


@kind(
    "process_replaced",
    "drakkar_process_replacements_total",
    severity=Severity.WARNING,
    status="failed",
    shown=Shown.TRACE,
)
class ProcessReplaced(RunEvent):
    """A persistent process ended after `duration_ms` and `requests` answers, and another one takes
    its place; `detail` has its last words. One that served its share is not told."""

    slot: int
    pid: int | None
    duration_ms: float
    cause: ProcessEnd
    detail: str
    requests: int


@kind("hook_slow", severity=Severity.WARNING, shown=Shown.PARTITION)
class HookSlow(RunEvent):
    """A handler hook took longer than a second, or has not returned for a minute (told again each
    time that is twice as long); of no partition where it is the worker's."""

    topic: str | None
    partition: int | None
    duration_ms: float
    hook: str


@kind("periodic_run", "drakkar_periodic_runs_total", shed=Shed.FIRST)
class PeriodicRun(RunEvent):
    """A periodic job ran."""

    duration_ms: float
    name: str
    status: str
    detail: str
    traceback: str = ""


@kind(
    "control",
    "drakkar_control_requests_total",
    shed=Shed.NEVER,
    icon="user",
    shown=Shown.TRACE | Shown.PARTITION,
)
class Control(RunEvent):
    """An operator's request was obeyed or refused; `actor` and `reason` say who asked, and why."""

    action: str
    target: str
    outcome: str
    request: str
    detail: str
    actor: str = ""
    reason: str = ""


@kind(
    "recorder_shed", severity=Severity.WARNING, shed=Shed.NEVER, status="failed", shown=Shown.TRACE
)
class RecorderShed(RunEvent):
    """Events that could not be kept, by kind; at most 32 ranges of (first seq, last seq, how many
    of these); the ended run whose events they were, empty: this one.

    ``sums``: what they count for in the rollups (``recorder.rollups.sums.Carried``). ``groups``:
    the failures among them by group (``recorder.failures.grouping.Shed``).
    """

    shed: Mapping[str, int]
    first_seq: int
    last_seq: int
    ranges: Sequence[Sequence[int]]
    of_run: str
    sums: Sequence[Any] = ()
    groups: Sequence[Any] = ()


@kind("sampled", severity=Severity.ROUTINE, shed=Shed.NEVER, icon="more")
class Sampled(RunEvent):
    """Messages of which no event was kept, for `recorder.sample` keeps one in `one_in`: how many,
    their fates, and their events by kind, since the last such event.

    ``sums``: what these count for in the rollups, and fast successes that
    ``event_min_duration_ms`` left out (``recorder.rollups.sums.Carried``).
    """

    one_in: int
    messages: int
    events: Mapping[str, int]
    fates: Mapping[str, int]
    sums: Sequence[Any] = ()


# -- a partition and its epochs


@value(frozen=True, slots=True, kw_only=True)
class PartitionEvent(Event):
    """Base of the events of a partition; their ``offset`` is a position, no message's own."""

    topic: str
    partition: int


@kind("assigned", "drakkar_rebalances_total", icon="swap", shown=Shown.EVERYWHERE, mark=REBALANCE)
class Assigned(PartitionEvent):
    """A partition began an epoch here, from ``offset`` (null: the group has none yet)."""

    offset: int | None
    epoch: int
    committed: int | None


@kind("revoked", "drakkar_rebalances_total", icon="swap", shown=Shown.EVERYWHERE, mark=REBALANCE)
class Revoked(PartitionEvent):
    """A partition was given up; ``offset`` is its watermark (null: nothing passed).

    Not ``clean``: the budget ran out, what was out may reach its sink and is done again.
    """

    offset: int | None
    duration_ms: float
    epoch: int
    reason: str
    dropped_messages: int
    clean: bool


@kind(
    "lost",
    "drakkar_rebalances_total",
    severity=Severity.WARNING,
    status="failed",
    shown=Shown.EVERYWHERE,
    mark=REBALANCE,
)
class Lost(PartitionEvent):
    """A partition was taken away; nothing of its epoch is committed any more."""

    epoch: int
    dropped_messages: int


@kind(
    "parked",
    severity=Severity.WARNING,
    status="failed",
    icon="parked",
    shown=Shown.TRACE | Shown.PARTITION,
)
class Parked(PartitionEvent):
    """A partition stopped by an error that is not its messages' fault."""

    offset: int | None
    cause: ParkingCause
    detail: str
    is_retried: bool


@kind("unparked", icon="running", shown=Shown.TRACE | Shown.PARTITION)
class Unparked(PartitionEvent):
    """A parked partition goes on."""

    cause: ParkingCause
    reason: str


@kind("paused", status="paused", shown=Shown.EVERYWHERE, mark=PAUSE)
class Paused(PartitionEvent):
    """Fetching of a partition stopped on purpose."""

    reason: str


@kind("resumed", icon="running", shown=Shown.EVERYWHERE, mark=START)
class Resumed(PartitionEvent):
    """Fetching of a partition went on."""

    reason: str


@kind("stalled", severity=Severity.WARNING, status="failed", shown=Shown.TRACE | Shown.PARTITION)
class Stalled(PartitionEvent):
    """A partition's position stands still though there is more to read."""

    offset: int
    end_offset: int


@kind("rewound", icon="swap", shown=Shown.EVERYWHERE, mark=START)
class Rewound(PartitionEvent):
    """An operator moved a commit back: what lies from ``offset`` on, ``offsets`` of them below the
    commit before, is read again, each message with the identity that it has."""

    offset: int
    committed: int
    offsets: int
    epoch: int
    request: str


@kind(
    "skipped",
    "drakkar_message_fates_total",
    severity=Severity.WARNING,
    shed=Shed.NEVER,
    status="paused",
    shown=Shown.EVERYWHERE,
    mark=PAUSE,
)
class Skipped(PartitionEvent):
    """An operator moved a commit on to ``offset``: the ``offsets`` from ``committed`` on are passed
    over, and their messages have the fate ``skipped``, all by this one event."""

    offset: int
    committed: int
    offsets: int
    epoch: int
    request: str


@kind("committed", "drakkar_commits_total", severity=Severity.ROUTINE, status="completed")
class Committed(PartitionEvent):
    """The broker acknowledged a commit: ``offset`` is the next one to read."""

    offset: int
    epoch: int


# -- a message, from hand-over to fate


@value(frozen=True, slots=True, kw_only=True)
class MessageEvent(Event):
    """Base of the events of a message and of what is done for it."""

    topic: str
    partition: int
    offset: int


@kind("consumed", "drakkar_messages_consumed_total", severity=Severity.ROUTINE)
class Consumed(MessageEvent):
    """A message was handed over."""

    timestamp: int
    size_bytes: int


@kind("arranged", severity=Severity.ROUTINE, icon="more", shown=Shown.LIVE)
class Arranged(MessageEvent):
    """The handler turned a message into these tasks (none: it is filtered)."""

    labels: Mapping[str, str]
    duration_ms: float
    task_ids: Sequence[str]
    batch_messages: int


@kind(
    "task_started",
    "drakkar_executor_queue_wait_seconds",
    severity=Severity.ROUTINE,
    status="running",
    shown=Shown.LIVE,
)
class TaskStarted(MessageEvent):
    """An attempt took a slot; told 20 ms later, or with its end if that comes first."""

    task_id: str
    slot: int | None
    attempt: int
    queue_ms: float
    labels: Mapping[str, str]
    args: Sequence[str]
    source_offsets: Sequence[int]


@value(frozen=True, slots=True, kw_only=True)
class AttemptEnded(MessageEvent):
    """Base of both ends of an attempt that ran; null is unknown. ``progress`` is what the program
    told last: ``progress`` (0 to 1 or null), ``note``, ``invalid_lines``; null: nothing."""

    task_id: str
    slot: int | None
    attempt: int
    exit_code: int | None
    pid: int | None
    duration_ms: float
    queue_ms: float
    labels: Mapping[str, str]
    args: Sequence[str]
    stdout: bytes | None
    stderr: bytes | None
    stdout_size: int | None
    stderr_size: int | None
    started_at: float
    user_cpu_seconds: float | None
    system_cpu_seconds: float | None
    max_rss_bytes: int | None
    progress: Mapping[str, Any] | None = None


@kind(
    "task_completed",
    "drakkar_executor_tasks_total",
    "drakkar_executor_duration_seconds",
    "drakkar_executor_spawn_seconds",
    shed=Shed.FIRST,
    status="completed",
    shown=Shown.LIVE,
)
class TaskCompleted(AttemptEnded):
    """An attempt ended well."""


@kind(
    "task_failed",
    "drakkar_executor_tasks_total",
    "drakkar_executor_failures_total",
    "drakkar_executor_duration_seconds",
    "drakkar_executor_spawn_seconds",
    severity=Severity.WARNING,
    status="failed",
    shown=Shown.LIVE | Shown.PARTITION,
)
class TaskFailed(AttemptEnded):
    """An attempt did not end well."""

    failure: str
    detail: str


@kind("task_retried", "drakkar_task_retries_total", status="retrying")
class TaskRetried(MessageEvent):
    """A failed task will run again after ``delay_ms``."""

    task_id: str
    attempt: int
    delay_ms: float
    failure: str


@kind("task_replaced")
class TaskReplaced(MessageEvent):
    """A failed task was replaced by others."""

    task_id: str
    attempt: int
    task_ids: Sequence[str]


@kind("task_cancelled", "drakkar_executor_tasks_total", status="paused", shown=Shown.LIVE)
class TaskCancelled(MessageEvent):
    """An attempt was ended before its time (epoch over, operator), or could not begin (program
    missing); null is unknown, or it had no process."""

    task_id: str
    attempt: int
    slot: int | None
    labels: Mapping[str, str]
    args: Sequence[str]
    reason: str
    exit_code: int | None = None
    pid: int | None = None
    duration_ms: float | None = None
    queue_ms: float | None = None
    stdout: bytes | None = None
    stderr: bytes | None = None
    stdout_size: int | None = None
    stderr_size: int | None = None
    started_at: float | None = None
    user_cpu_seconds: float | None = None
    system_cpu_seconds: float | None = None
    max_rss_bytes: int | None = None
    progress: Mapping[str, Any] | None = None


@kind("collected", severity=Severity.ROUTINE, icon="out", shown=Shown.LIVE)
class Collected(MessageEvent):
    """A hook turned results into payloads."""

    task_id: str | None
    duration_ms: float
    hook: str
    payloads: int


@kind("delivered", severity=Severity.ROUTINE)
class Delivered(MessageEvent):
    """A sink stored a payload."""

    task_id: str | None
    sink: str
    attempt: int
    duration_ms: float
    queue_ms: float
    sink_kind: str
    delivery_id: str


@kind("delivery_failed", severity=Severity.WARNING, status="failed")
class DeliveryFailed(MessageEvent):
    """An attempt to store a payload failed, or the payload was given up."""

    task_id: str | None
    sink: str
    attempt: int
    sink_kind: str
    delivery_id: str
    is_transient: bool
    detail: str


@kind(
    "dead_lettered",
    "drakkar_dead_letters_total",
    severity=Severity.WARNING,
    shed=Shed.NEVER,
    status="dead_lettered",
    shown=Shown.PARTITION,
)
class DeadLettered(MessageEvent):
    """A letter was written to the dead-letter topic at ``letter_partition:letter_offset``.

    ``traceback`` is that of the handler's error, bounded and masked; empty where none raised.
    """

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


@kind("deferred", status="retrying", shown=Shown.PARTITION)
class MessageDeferred(MessageEvent):
    """A message was written to the retry topic at ``retry_partition:retry_offset``, where
    ``task_ids`` run again from ``due_at`` on.

    ``origin`` is ``topic/partition/offset`` of its first life.
    """

    retry_topic: str
    retry_partition: int
    retry_offset: int
    due_at: float
    task_ids: Sequence[str]
    origin: str


@kind(
    "message_completed",
    "drakkar_message_fates_total",
    "drakkar_message_latency_seconds",
    severity=Severity.ROUTINE,
)
class MessageCompleted(MessageEvent):
    """A message got its fate; ``duration_ms`` counts from its hand-over."""

    duration_ms: float
    fate: str
    reason: str


# -- a dead letter, later


@value(frozen=True, slots=True, kw_only=True)
class LetterEvent(Event):
    """Base of what a person does with a message or its dead letter later; told of the message's
    own place."""

    topic: str
    partition: int
    offset: int


@kind("replayed", icon="out", shown=Shown.TRACE | Shown.PARTITION)
class Replayed(LetterEvent):
    """A dead letter was sent again; ``edited`` names what a person changed of it, or is null."""

    target: str
    actor: str
    edited: tuple[str, ...] | None


@kind("resolved", icon="completed", shown=Shown.TRACE | Shown.PARTITION)
class Resolved(LetterEvent):
    """A dead letter was closed by an operator."""

    actor: str
    reason: str


@kind("rerun", icon="out", shown=Shown.TRACE | Shown.PARTITION)
class MessageRerun(LetterEvent):
    """A message was sent to its topic again; ``tasks`` are the numbers of those that alone run
    again (null: all), ``is_new_identity`` says that it counts as another message."""

    target: str
    actor: str
    tasks: tuple[int, ...] | None
    is_new_identity: bool


# -- a sink


@value(frozen=True, slots=True, kw_only=True)
class SinkEvent(Event):
    """Base of the events of a sink."""

    sink: str
    sink_kind: str


@kind("breaker_opened", severity=Severity.WARNING, status="failed")
class BreakerOpened(SinkEvent):
    """A sink failed too often in a row; it rests until a probe."""

    failures: int
    detail: str


@kind("breaker_closed", status="completed")
class BreakerClosed(SinkEvent):
    """A sink works again."""

    duration_ms: float


@kind("sink_reconnected", severity=Severity.WARNING)
class SinkReconnected(SinkEvent):
    """A connection was made anew: it answered, but stored nothing for ``duration_ms``."""

    duration_ms: float
    detail: str
