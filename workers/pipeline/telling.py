"""Events that tasks and partitions tell, in the words of ``domain.events``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
from domain.failure import FailureKind, TaskFailure
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

    def exited(
        self, live: LiveTask, outcome: TaskResult | TaskFailure, exit_: Exit, queue_ms: float
    ) -> None:
        """A process ended; how, is in its exit."""
        result = outcome if isinstance(outcome, TaskResult) else outcome.result
        assert result is not None
        sizes = (exit_.stdout_size, exit_.stderr_size)
        self.ended(live, result, exit_.failure, exit_.detail, queue_ms, sizes)

    def ended(
        self,
        live: LiveTask,
        result: TaskResult,
        failure: FailureKind | None,
        detail: str,
        queue_ms: float,
        sizes: tuple[int, int] | None = None,
    ) -> None:
        """An attempt ended; ``sizes`` are those of its output before it was cut."""
        task, record, usage = live.task, live.messages[0].record, result.usage
        has_code = result.pid is not None or task.precomputed is not None
        out_size, err_size = sizes or (len(result.stdout), len(result.stderr))
        kind: Callable[..., Event] = TaskCompleted
        if failure is not None:
            kind = partial(TaskFailed, failure=failure.value, detail=detail)
        self._tell(
            kind(
                at=self._clock.wall(),
                topic=record.topic,
                partition=record.partition,
                offset=record.offset,
                task_id=task.id,
                slot=live.slot,
                attempt=live.attempt,
                exit_code=result.exit_code if has_code else None,
                pid=result.pid,
                duration_ms=result.duration_seconds * 1000.0,
                queue_ms=queue_ms,
                labels=task.labels,
                args=task.args,
                stdout=result.stdout,
                stderr=result.stderr,
                stdout_size=out_size,
                stderr_size=err_size,
                started_at=result.started_at,
                user_cpu_seconds=usage.user_cpu_seconds,
                system_cpu_seconds=usage.system_cpu_seconds,
                max_rss_bytes=usage.max_rss_bytes,
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
        """Tell that it ended without an end of its own."""
        self._tell(
            TaskCancelled(
                **self._place(live),
                attempt=live.attempt,
                slot=live.slot,
                reason=reason,
            )
        )

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
