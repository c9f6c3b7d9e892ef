"""Counters of a worker's events: plain numbers, and nothing looked up by label."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from domain import events
from domain.beat import CounterBeat, LatencyBeat, RunningTask
from domain.fate import Fate
from domain.histogram import DOUBLING_SECONDS, Histogram


def retry_label(partition: int) -> str:
    """Return how metrics name a partition of the retry topic, beside those of the source."""
    return f"retry-{partition}"


class Counters:
    """Listener that counts. Written on the loop thread; read anywhere (each figure is atomic)."""

    def __init__(self, retry_topic: str | None = None) -> None:
        self._retry_topic = retry_topic
        self.consumed: Counter[int | str] = Counter()
        """Messages handed over by partition, as ``retry_label`` says."""
        self.fates: Counter[str] = Counter({fate.value: 0 for fate in Fate})
        self.outcomes: Counter[str] = Counter(completed=0, failed=0, cancelled=0)
        self.failures: Counter[str] = Counter()
        self.dead_letters: Counter[str] = Counter()
        self.retries = 0
        self.fenced_results = 0
        self.periodic: Counter[tuple[str, str]] = Counter()
        self.control: Counter[tuple[str, str]] = Counter()
        self.commits = 0
        self.commit_errors: Counter[str] = Counter()
        self.rebalances: Counter[str] = Counter(assign=0, revoke=0, lost=0)
        self.spawner_restarts = 0
        self.process_replacements: Counter[str] = Counter()
        self.listener_errors: Mapping[str, int] = {}
        """Events each listener failed on; the dictionary of ``Listeners``."""
        self.uncaught: Counter[str] = Counter(callback=0, task=0, thread=0, finalizer=0)
        """Errors that nobody caught, by where (``workers.runtime.uncaught``)."""
        self.task_seconds = Histogram()
        self.queue_seconds = Histogram()
        self.spawn_seconds = Histogram()
        self.message_seconds = Histogram()
        self.running: dict[tuple[str, str], events.TaskStarted] = {}
        self._by_kind: dict[str, Callable[[Any], None]] = {
            name: getattr(self, f"_on_{name}")
            for name, kind in events.KINDS.items()
            if kind.metrics
        }

    def __call__(self, event: events.Event) -> None:
        """Count one event."""
        self._by_kind.get(event.kind, events.ignore)(event)

    def listener_of(self, kind: str) -> events.Tell | None:
        """Return what counts events of a kind; None: they are not counted."""
        return self._by_kind.get(kind)

    def _on_consumed(self, event: events.Consumed) -> None:
        is_retry = event.topic == self._retry_topic
        self.consumed[retry_label(event.partition) if is_retry else event.partition] += 1

    def _on_message_completed(self, event: events.MessageCompleted) -> None:
        self.fates[event.fate] += 1
        self.message_seconds.observe(event.duration_ms / 1000.0)

    def _on_skipped(self, event: events.Skipped) -> None:
        self.fates[Fate.SKIPPED] += event.offsets

    def _on_task_started(self, event: events.TaskStarted) -> None:
        self.running[event.topic, event.task_id] = event
        if event.slot is not None:
            self.queue_seconds.observe(event.queue_ms / 1000.0)

    def _on_task_completed(self, event: events.TaskCompleted) -> None:
        self.outcomes["completed"] += 1
        self._ran(event)

    def _on_task_failed(self, event: events.TaskFailed) -> None:
        self.outcomes["failed"] += 1
        self.failures[event.failure] += 1
        self._ran(event)

    def _ran(self, event: events.TaskCompleted | events.TaskFailed) -> None:
        self.task_seconds.observe(event.duration_ms / 1000.0)
        started = self.running.pop((event.topic, event.task_id), None)
        if started is not None and event.pid is not None:
            self.spawn_seconds.observe(max(0.0, event.started_at - started.at))

    def _on_task_retried(self, event: events.TaskRetried) -> None:
        self.retries += 1

    def _on_task_cancelled(self, event: events.TaskCancelled) -> None:
        self.running.pop((event.topic, event.task_id), None)
        self.outcomes["cancelled"] += 1

    def _on_dead_lettered(self, event: events.DeadLettered) -> None:
        self.dead_letters[event.stage] += 1

    def _on_assigned(self, event: events.Assigned) -> None:
        self.rebalances["assign"] += 1

    def _on_revoked(self, event: events.Revoked) -> None:
        self.rebalances["revoke"] += 1

    def _on_lost(self, event: events.Lost) -> None:
        self.rebalances["lost"] += 1

    def _on_committed(self, event: events.Committed) -> None:
        self.commits += 1

    def _on_spawner_lost(self, event: events.SpawnerLost) -> None:
        self.spawner_restarts += 1

    def _on_process_replaced(self, event: events.ProcessReplaced) -> None:
        self.process_replacements[event.cause.value] += 1

    def _on_periodic_run(self, event: events.PeriodicRun) -> None:
        self.periodic[event.name, event.status] += 1

    def _on_control(self, event: events.Control) -> None:
        self.control[event.action, event.outcome] += 1

    def snapshot(self) -> CounterBeat:
        """Return the counters as a heartbeat tells them."""
        return CounterBeat(
            consumed=self.consumed.total(),
            tasks_completed=self.outcomes["completed"],
            tasks_failed=self.outcomes["failed"],
            tasks_retried=self.retries,
            tasks_cancelled=self.outcomes["cancelled"],
            fates=dict(self.fates),
            dead_letters=self.dead_letters.total(),
        )

    def running_tasks(self) -> tuple[RunningTask, ...]:
        """Return the attempts that hold a slot now."""
        return tuple(
            RunningTask(
                task_id=event.task_id,
                slot=event.slot,
                topic=event.topic,
                partition=event.partition,
                offset=event.offset,
                attempt=event.attempt,
                queue_ms=event.queue_ms,
                labels=dict(event.labels),
                started_at=event.at,
            )
            for event in self.running.values()
            if event.slot is not None
        )

    def latency(self) -> LatencyBeat:
        """Return message latency in fixed log buckets."""
        return LatencyBeat(buckets=DOUBLING_SECONDS, counts=tuple(self.message_seconds.counts))
