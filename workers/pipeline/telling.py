"""Events that tasks and partitions tell, in the words of ``domain.events``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from domain.deferral import Deferral
from domain.events import (
    Arranged,
    Collected,
    Consumed,
    Event,
    Lost,
    MessageCompleted,
    MessageDeferred,
    Parked,
    Paused,
    Resumed,
    Revoked,
    Stalled,
    TaskCancelled,
    TaskCompleted,
    TaskFailed,
    TaskReplaced,
    TaskRetried,
    TaskStarted,
    Tell,
    Unparked,
)
from domain.failure import FailureKind
from domain.fate import Fate
from domain.message import Record
from domain.parking import ParkingCause
from domain.task import TaskResult
from sinks.record_writer import RecordReceipt
from workers.clock import Clock
from workers.consumer.ownership import Claim, PauseReason
from workers.executor.base import Exit
from workers.pipeline.life_cycle import LiveMessage, LiveTask


class TaskTeller:
    """One for all tasks of a worker; each method tells one event."""

    __slots__ = ("_clock", "_tell")

    def __init__(self, clock: Clock, tell: Tell) -> None:
        self._clock = clock
        self._tell = tell

    def started(self, live: LiveTask, taken_at: float) -> None:
        """An attempt took a slot, at a time of the clock."""
        task, record = live.task, live.messages[0].record
        self._tell(
            TaskStarted(
                at=self._clock.wall_at(taken_at),
                topic=record.topic,
                partition=record.partition,
                offset=record.offset,
                task_id=task.id,
                slot=live.slot,
                attempt=live.attempt,
                queue_ms=max(0.0, taken_at - live.queued_at) * 1000.0,
                labels=task.labels,
                args=task.args,
                source_offsets=task.source_offsets,
            )
        )

    def exited(self, live: LiveTask, exit_: Exit) -> None:
        """An attempt ended; how, is in its exit."""
        task, record = live.task, live.messages[0].record
        kind: Callable[..., Event] = TaskCompleted
        if exit_.failure is not None:
            kind = partial(TaskFailed, failure=exit_.failure.value, detail=exit_.detail)
        self._tell(
            kind(
                at=self._clock.wall(),
                topic=record.topic,
                partition=record.partition,
                offset=record.offset,
                task_id=task.id,
                slot=live.slot,
                attempt=live.attempt,
                labels=task.labels,
                args=task.args,
                **self._left(live, exit_),
            )
        )

    def precomputed(
        self, live: LiveTask, result: TaskResult, failure: FailureKind | None, detail: str
    ) -> None:
        """A task that needed no process ended."""
        kind: Callable[..., Event] = TaskCompleted
        if failure is not None:
            kind = partial(TaskFailed, failure=failure.value, detail=detail)
        self._tell(
            kind(
                **self._place(live),
                slot=None,
                attempt=live.attempt,
                exit_code=result.exit_code,
                pid=None,
                duration_ms=0.0,
                queue_ms=0.0,
                labels=live.task.labels,
                args=live.task.args,
                stdout=result.stdout,
                stderr=result.stderr,
                stdout_size=len(result.stdout),
                stderr_size=len(result.stderr),
                started_at=result.started_at,
                user_cpu_seconds=result.usage.user_cpu_seconds,
                system_cpu_seconds=result.usage.system_cpu_seconds,
                max_rss_bytes=result.usage.max_rss_bytes,
            )
        )

    def retried(self, live: LiveTask, delay_seconds: float, failure: FailureKind) -> None:
        """Tell that it will run again after so long."""
        self._tell(
            TaskRetried(
                **self._place(live),
                attempt=live.attempt,
                delay_ms=delay_seconds * 1000.0,
                failure=failure.value,
            )
        )

    def replaced(self, live: LiveTask, task_ids: Sequence[str]) -> None:
        """Other tasks took its place."""
        self._tell(TaskReplaced(**self._place(live), attempt=live.attempt, task_ids=task_ids))

    def collected(self, live: LiveTask, payloads: int, began: float) -> None:
        """``collect`` gave payloads."""
        now, record = self._clock.now(), live.messages[0].record
        self._tell(
            Collected(
                at=self._clock.wall_at(now),
                topic=record.topic,
                partition=record.partition,
                offset=record.offset,
                task_id=live.task.id,
                hook="collect",
                payloads=payloads,
                duration_ms=(now - began) * 1000.0,
            )
        )

    def cancelled(self, live: LiveTask, reason: str) -> None:
        """Tell that it ended before its time, with what its process left if it had one."""
        ended = live.cut_short
        self._tell(
            TaskCancelled(
                **self._place(live),
                attempt=live.attempt,
                slot=live.slot,
                labels=live.task.labels,
                args=live.task.args,
                reason=reason,
                **({} if ended is None else self._left(live, ended)),
            )
        )

    def _left(self, live: LiveTask, ended: Exit) -> dict[str, Any]:
        """What a process left that ended: its account and its output, None where unknown."""
        usage = ended.usage
        return {
            "exit_code": ended.exit_code,
            "pid": ended.pid,
            "duration_ms": ended.duration_seconds * 1000.0,
            "queue_ms": live.waited_ms(ended.started_at),
            "stdout": None if ended.is_output_lost else ended.stdout,
            "stderr": None if ended.is_output_lost else ended.stderr,
            "stdout_size": None if ended.is_output_lost else ended.stdout_size,
            "stderr_size": None if ended.is_output_lost else ended.stderr_size,
            "started_at": self._clock.wall_at(ended.started_at),
            "user_cpu_seconds": usage and usage.user_cpu_seconds,
            "system_cpu_seconds": usage and usage.system_cpu_seconds,
            "max_rss_bytes": usage and usage.max_rss_bytes,
            "progress": _progress(ended),
        }

    def _place(self, live: LiveTask) -> dict[str, Any]:
        """Return what every event of a task says, for those that are rare."""
        record = live.messages[0].record
        return {
            "at": self._clock.wall(),
            "topic": record.topic,
            "partition": record.partition,
            "offset": record.offset,
            "task_id": live.task.id,
        }


def _progress(exit_: Exit) -> Mapping[str, Any] | None:
    """What it told last of how far it is; None: nothing."""
    if exit_.progress is None and not exit_.note and not exit_.progress_invalid:
        return None
    return {
        "progress": exit_.progress,
        "note": exit_.note,
        "invalid_lines": exit_.progress_invalid,
    }


class PartitionTeller:
    """Bound to a claim; each method tells one event."""

    __slots__ = ("_claim", "_clock", "_tell")

    def __init__(self, claim: Claim, clock: Clock, tell: Tell) -> None:
        self._claim = claim
        self._clock = clock
        self._tell = tell

    def _place(self) -> dict[str, Any]:
        claim = self._claim
        return {"at": self._clock.wall(), "topic": claim.topic, "partition": claim.partition}

    def consumed(self, record: Record, size_bytes: int, at: float) -> None:
        """A record was handed over."""
        self._tell(
            Consumed(
                at=at,
                topic=record.topic,
                partition=record.partition,
                offset=record.offset,
                timestamp=record.timestamp,
                size_bytes=size_bytes,
            )
        )

    def stalled(self, position: int, end_offset: int) -> None:
        """Nothing is read though there is more."""
        self._tell(Stalled(**self._place(), offset=position, end_offset=end_offset))

    def paused(self, reason: PauseReason, is_paused: bool) -> None:
        """Somebody paused fetching, or let it go on."""
        event: Event = (Paused if is_paused else Resumed)(**self._place(), reason=reason.value)
        self._tell(event)

    def arranged(
        self, message: LiveMessage, labels: dict[str, str], seconds: float, batch_messages: int
    ) -> None:
        """A message has its tasks."""
        self._tell(
            Arranged(
                at=self._clock.wall(),
                topic=self._claim.topic,
                partition=self._claim.partition,
                offset=message.record.offset,
                task_ids=sorted(message.tasks),
                labels=labels,
                duration_ms=seconds * 1000.0,
                batch_messages=batch_messages,
            )
        )

    def collected(self, record: Record, hook: str, payloads: int, seconds: float) -> None:
        """A completion hook gave payloads."""
        self._tell(
            Collected(
                **self._place(),
                offset=record.offset,
                task_id=None,
                hook=hook,
                payloads=payloads,
                duration_ms=seconds * 1000.0,
            )
        )

    def completed(self, message: LiveMessage, fate: Fate) -> None:
        """A message has its fate."""
        now, claim = self._clock.now(), self._claim
        self._tell(
            MessageCompleted(
                at=self._clock.wall_at(now),
                topic=claim.topic,
                partition=claim.partition,
                offset=message.record.offset,
                fate=fate.value,
                duration_ms=(now - message.handed_at) * 1000.0,
                reason=message.reason,
            )
        )

    def deferred(self, message: LiveMessage, deferral: Deferral, receipt: RecordReceipt) -> None:
        """A message was written to the retry topic."""
        origin = deferral.origin
        self._tell(
            MessageDeferred(
                **self._place(),
                offset=message.record.offset,
                retry_topic=receipt.topic,
                retry_partition=receipt.partition,
                retry_offset=receipt.offset,
                due_at=deferral.due_at,
                task_ids=sorted(again.task.id for again in message.again),
                origin=f"{origin.topic}/{origin.partition}/{origin.offset}",
            )
        )

    def parked(self, offset: int | None, cause: ParkingCause, detail: str) -> None:
        """The partition waits because of an error that is not its messages' fault."""
        is_retried = cause.handling.is_retried
        self._tell(
            Parked(
                **self._place(), offset=offset, cause=cause, detail=detail, is_retried=is_retried
            )
        )

    def unparked(self, cause: ParkingCause, reason: str) -> None:
        """A cause is gone."""
        self._tell(Unparked(**self._place(), cause=cause, reason=reason))

    def revoked(
        self, watermark: int | None, reason: str, dropped: int, seconds: float, *, is_clean: bool
    ) -> None:
        """The epoch was ended by us."""
        self._tell(
            Revoked(
                **self._place(),
                offset=watermark,
                epoch=self._claim.epoch,
                reason=reason,
                dropped_messages=dropped,
                clean=is_clean,
                duration_ms=seconds * 1000.0,
            )
        )

    def lost(self, dropped: int) -> None:
        """The epoch ended without us."""
        self._tell(Lost(**self._place(), epoch=self._claim.epoch, dropped_messages=dropped))
