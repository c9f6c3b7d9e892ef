"""What happens to a run of a worker, outside its partitions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from domain.events.base import Event, kind
from domain.value import value


@kind("worker_started")
@value(frozen=True, slots=True, kw_only=True)
class WorkerStarted(Event):
    """A run began."""

    cluster: str
    worker: str
    host: str
    pid: int
    version: str
    isolation: str


@kind("worker_stopped")
@value(frozen=True, slots=True, kw_only=True)
class WorkerStopped(Event):
    """A run ended by itself; ``clean`` says that nothing was cut short."""

    clean: bool
    reason: str


@kind("worker_lost")
@value(frozen=True, slots=True, kw_only=True)
class WorkerLost(Event):
    """The controller judged a run dead: its heartbeat fell silent."""

    lost_run: str
    cluster: str
    worker: str
    silent_seconds: float


@kind("spawner_lost")
@value(frozen=True, slots=True, kw_only=True)
class SpawnerLost(Event):
    """A spawner process died; its unfinished tasks run again."""

    pid: int
    tasks: int
    detail: str


@kind("hook_slow")
@value(frozen=True, slots=True, kw_only=True)
class HookSlow(Event):
    """A handler hook took longer than a second; of no partition where it is the worker's."""

    topic: str | None
    partition: int | None
    hook: str
    duration_ms: float


@kind("periodic_run")
@value(frozen=True, slots=True, kw_only=True)
class PeriodicRun(Event):
    """A periodic job ran."""

    name: str
    status: str
    duration_ms: float
    detail: str
    traceback: str = ""


@kind("control")
@value(frozen=True, slots=True, kw_only=True)
class Control(Event):
    """An operator's request was obeyed or refused."""

    action: str
    target: str
    outcome: str
    request: str
    detail: str


@kind("recorder_shed")
@value(frozen=True, slots=True, kw_only=True)
class RecorderShed(Event):
    """Events that could not be kept, by kind. ``ranges`` are at most 32 of (first seq, last seq,
    how many of these); ``of_run`` is the ended run whose events they were, empty: this one."""

    shed: Mapping[str, int]
    first_seq: int
    last_seq: int
    ranges: Sequence[Sequence[int]]
    of_run: str
