"""One task of one cluster: every execution with what it printed and what became of it."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db.models import Max, Min

from domain.masking import mask, mask_args
from recorder.models import Event, Run
from recorder.reading import events_of, of_task
from recorder.spans import ENDINGS, detail, start_of
from recorder.timestamps import shifted
from recorder.trace import Place, offset_of

MAX_ROWS = 500
OPEN = frozenset({"running", "retrying"})
"""Statuses of a task that has not ended."""
CUT_SHORT = "cut short: the worker ended and told no end of it"


@dataclass(slots=True, kw_only=True)
class Execution:
    """One attempt in one run; None stands for what no row tells.

    ``state`` is ``unknown`` where the run ended before it told what became of the attempt.
    ``progress`` (0 to 1), ``note``: what the program told last of how far it is; ``invalid_lines``
    counts what it told wrongly.
    """

    run: UUID
    worker: str
    host: str
    attempt: int
    state: str
    started_at: datetime
    ended_at: datetime | None = None
    slot: int | None = None
    pid: int | None = None
    exit_code: int | None = None
    duration_ms: float | None = None
    queue_ms: float | None = None
    args: Sequence[str] = ()
    stdout: bytes | None = None
    stderr: bytes | None = None
    stdout_size: int | None = None
    stderr_size: int | None = None
    usage: Mapping[str, Any] = field(default_factory=dict)
    failure: str = ""
    detail: str = ""
    progress: float | None = None
    note: str = ""
    invalid_lines: int = 0

    @property
    def kill_reason(self) -> str:
        """Why the process did not end by itself; empty when it did."""
        number = -(self.exit_code or 0)
        name = signal.Signals(number).name if number in set(signal.Signals) else ""
        if self.state == "unknown":
            return self.detail
        if self.state == "paused":
            return self.detail or "cancelled"
        if self.failure in (
            "timeout",
            "stalled",
            "oom",
            "output_limit",
            "cancelled",
            "lost",
            "signal",
        ):
            return ", ".join(part for part in (self.failure, name, self.detail) if part)
        return name


@dataclass(slots=True, kw_only=True)
class TaskDetail:
    """Story of a task as its rows tell it; ``status`` is its latest execution's state.

    ``env`` (masked), ``env_pass`` and ``cwd`` are those of ``executor`` in the latest run: what the
    handler gave the task besides is not recorded.
    """

    cluster: str
    task_id: str
    topic: str
    partition: int
    status: str
    labels: Mapping[str, str]
    source_offsets: Sequence[int]
    program: str
    executions: list[Execution]
    events: list[Event]
    names: Mapping[UUID, str]
    is_cut: bool
    env: Mapping[str, str]
    env_pass: Sequence[str]
    cwd: str

    @property
    def latest(self) -> Execution | None:
        """Newest execution."""
        return self.executions[-1] if self.executions else None

    @property
    def due_at(self) -> datetime | None:
        """Time of its next attempt; None: it waits for none, or when is unknown."""
        if self.status != "retrying":
            return None
        last = next(row for row in reversed(self.events) if row.kind == "task_retried")
        delay_ms = detail(last).get("delay_ms")
        if not isinstance(delay_ms, int | float):
            return None
        return shifted(last.ts, delay_ms)

    @property
    def place(self) -> Place:
        """Message that the task bears in its id."""
        offset = offset_of(self.task_id)
        return Place(topic=self.topic, partition=self.partition, offset=offset or 0)


def task_detail(cluster: str, task_id: str, topic: str = "") -> TaskDetail | None:
    """Return the task, or None when no row names it. ``topic`` chooses where several have such an
    id; what a deferred message did in its cluster's retry topic is the same task's."""
    if "\0" in cluster + task_id + topic:  # Postgres holds no NUL
        return None
    rows = Event.objects.filter(of_task(task_id))
    told = list(rows.order_by().values_list("run").annotate(Min("ts"), Max("ts")))
    runs = _runs(cluster, [run for run, _, _ in told])
    times = [at for run, first, last in told if run in runs for at in (first, last)]
    if not times:
        return None
    # Bounds of time: of the days' tables, only those that hold the task are opened again.
    rows = rows.filter(ts__gte=min(times), ts__lte=max(times))
    retries = {_retry_topic(run) for run in runs.values()}
    if topic and topic not in retries:
        rows = rows.filter(topic__in={topic, *retries})
    events = events_of(rows.filter(run__in=runs).order_by("ts", "id")[: MAX_ROWS + 1])
    found = [event for event in events if event.task_id == task_id]
    if not found:
        return None
    sources = [row.topic for row in found if row.topic not in retries]
    source = sources[-1] if sources else found[-1].topic
    known = [row for row in found if row.topic in {source, *retries}][:MAX_ROWS]
    executions = _executions(known, runs)
    executor = runs[known[-1].run].config.get("executor") or {}
    return TaskDetail(
        cluster=cluster,
        task_id=task_id,
        topic=source or "",
        partition=_partition_in(task_id),
        status=_status(known, executions),
        labels=_labels(known),
        source_offsets=_sources([row for row in known if row.topic == source], task_id),
        program=str(executor.get("binary") or ""),
        executions=executions,
        events=known,
        names={run.id: run.worker for run in runs.values()},
        is_cut=len(found) > MAX_ROWS,
        env=_environment(executor.get("env")),
        env_pass=[str(name) for name in executor.get("env_pass") or ()],
        cwd=str(executor.get("cwd") or ""),
    )


def _environment(given: Any) -> dict[str, str]:
    """Return what every task is given, with secrets masked."""
    masked = mask(given) if isinstance(given, dict) else {}
    return {str(name): str(value) for name, value in masked.items()}


def _retry_topic(run: Run) -> str:
    return str((run.config.get("retry") or {}).get("topic") or "")


def _partition_in(task_id: str) -> int:
    first = task_id.partition(":")[0]
    return int(first) if first.isdecimal() else 0


def _labels(rows: Sequence[Event]) -> dict[str, str]:
    """Return the latest labels; rows of before labels were texts hold what handlers gave."""
    found = next((row.labels for row in reversed(rows) if isinstance(row.labels, dict)), {})
    return {name: text if isinstance(text, str) else str(text) for name, text in found.items()}


def _runs(cluster: str, ids: Sequence[UUID]) -> dict[UUID, Run]:
    runs = Run.objects.filter(cluster=cluster, id__in=ids).select_related("beat")
    runs = runs.defer("environment", "beat__metrics", "beat__partitions", "beat__sinks")
    return {run.id: run for run in runs}


def _sources(rows: Sequence[Event], task_id: str) -> Sequence[int]:
    for row in rows:
        if row.kind == "task_started" and detail(row).get("source_offsets"):
            return [int(offset) for offset in detail(row)["source_offsets"]]
    offset = offset_of(task_id)
    return [] if offset is None else [offset]


def _status(rows: Sequence[Event], executions: Sequence[Execution]) -> str:
    last = {"task_retried": "retrying", "dead_lettered": "dead_lettered"}
    for row in reversed(rows):
        if row.kind in last:
            return last[row.kind]
        if row.kind in ("task_started", *ENDINGS):
            break
    return executions[-1].state if executions else "unknown"


def _executions(rows: Sequence[Event], runs: Mapping[UUID, Run]) -> list[Execution]:
    found: dict[tuple[UUID, int, int], Execution] = {}
    round_of: dict[UUID, int] = {}
    for row in rows:
        if row.kind not in ("task_started", *ENDINGS):
            continue
        if row.kind == "task_started" and row.attempt == 1:
            round_of[row.run] = round_of.get(row.run, 0) + 1
        key = (row.run, round_of.get(row.run, 0), row.attempt or 0)
        execution = found.get(key)
        if execution is None:
            execution = found[key] = Execution(
                run=row.run,
                worker=runs[row.run].worker,
                host=runs[row.run].host,
                attempt=row.attempt or 0,
                state="running",
                started_at=start_of(row),
            )
        _learn(execution, row)
    for execution in found.values():
        if execution.state == "running" and not _lives(runs[execution.run]):
            execution.state, execution.detail = "unknown", CUT_SHORT
    return list(found.values())


def _lives(run: Run) -> bool:
    """Whether its last beat still calls it alive."""
    return hasattr(run, "beat") and run.beat.state not in ("stopped", "lost")


def _learn(execution: Execution, row: Event) -> None:
    for name in ("slot", "pid", "exit_code", "duration_ms", "queue_ms", "stdout_size",
                 "stderr_size"):  # fmt: skip
        if getattr(row, name) is not None:
            setattr(execution, name, getattr(row, name))
    if row.args is not None:
        execution.args = mask_args([str(each) for each in row.args])
    if row.kind == "task_started":
        return
    found = detail(row)
    execution.state, execution.ended_at = ENDINGS[row.kind], row.ts
    execution.failure = str(found.get("failure") or "")
    execution.detail = str(found.get("detail") or found.get("reason") or "")
    execution.usage = dict(execution.usage) | {
        name: found[name]
        for name in ("user_cpu_seconds", "system_cpu_seconds", "max_rss_bytes")
        if found.get(name) is not None
    }
    # A cancelled wait for the next attempt has nothing of its own: the failed attempt's stays.
    if row.stdout is not None:
        execution.stdout = bytes(row.stdout)
    if row.stderr is not None:
        execution.stderr = bytes(row.stderr)
    _learn_progress(execution, found.get("progress"))


def _learn_progress(execution: Execution, told: Any) -> None:
    if not isinstance(told, dict):
        return
    progress, note, invalid = (told.get(name) for name in ("progress", "note", "invalid_lines"))
    execution.progress = float(progress) if isinstance(progress, int | float) else None
    execution.note = note if isinstance(note, str) else ""
    execution.invalid_lines = invalid if isinstance(invalid, int) else 0


def text_of(output: bytes | None) -> str | None:
    """Return output as text, undecodable bytes replaced; None, which is unknown, as None."""
    return None if output is None else output.decode("utf-8", "replace")
