"""The worker's own figures: plain numbers counted on the loop, rendered only when asked for.

``Counters`` listens to events; ``WorkerCollector`` turns it and the live snapshots into Prometheus
metrics (names and labels: docs/metrics.md). Nothing is looked up by label on the hot path.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector

from domain import events
from domain.breaker import CIRCUIT_NUMBER, Circuit
from domain.fate import Fate

BUCKETS_SECONDS = tuple(round(0.001 * 2**power, 3) for power in range(20))
"""Fixed log buckets of every latency: 1 ms to about 524 s."""

RUNNING_FIELDS = ("slot", "task_id", "topic", "partition", "offset", "attempt", "queue_ms")
PARTITION_STATES = ("running", "paused", "parked", "stalled", "draining")


@dataclass(slots=True)
class Histogram:
    """Counts in fixed log buckets; per run and monotonic, so sums over runs stay true."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS_SECONDS) + 1))
    sum_seconds: float = 0.0

    def observe(self, seconds: float) -> None:
        """Count one duration."""
        self.counts[bisect_left(BUCKETS_SECONDS, seconds)] += 1
        self.sum_seconds += seconds

    def family(self, name: str, text: str, base: Mapping[str, str]) -> HistogramMetricFamily:
        """As a Prometheus histogram."""
        family = HistogramMetricFamily(name, text, labels=list(base))
        total, buckets = 0, []
        for limit, count in zip((*map(str, BUCKETS_SECONDS), "+Inf"), self.counts, strict=True):
            total += count
            buckets.append((limit, total))
        family.add_metric(list(base.values()), buckets, self.sum_seconds)
        return family


class Counters:
    """A listener that counts. Written on the loop thread; read anywhere (each figure is atomic)."""

    def __init__(self) -> None:
        self.consumed: Counter[int] = Counter()
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
        self.task_seconds = Histogram()
        self.queue_seconds = Histogram()
        self.message_seconds = Histogram()
        self.running: dict[tuple[str, str], events.TaskStarted] = {}
        self._by_kind: dict[str, Callable[[Any], None]] = defaultdict(
            lambda: _nothing,
            {
                "consumed": self._on_consumed,
                "message_completed": self._on_message,
                "task_started": self._on_started,
                "task_completed": self._on_completed,
                "task_failed": self._on_failed,
                "task_retried": self._on_retried,
                "task_cancelled": self._on_cancelled,
                "dead_lettered": self._on_dead_lettered,
                "assigned": lambda _: self._count_rebalance("assign"),
                "revoked": lambda _: self._count_rebalance("revoke"),
                "lost": lambda _: self._count_rebalance("lost"),
                "committed": self._on_committed,
                "spawner_lost": self._on_spawner_lost,
                "periodic_run": self._on_periodic_run,
                "control": self._on_control,
            },
        )

    def __call__(self, event: events.Event) -> None:
        """Count one event."""
        self._by_kind[event.kind](event)

    def _on_consumed(self, event: events.Consumed) -> None:
        self.consumed[event.partition] += 1

    def _on_message(self, event: events.MessageCompleted) -> None:
        self.fates[event.fate] += 1
        self.message_seconds.observe(event.duration_ms / 1000.0)

    def _on_started(self, event: events.TaskStarted) -> None:
        self.running[event.topic, event.task_id] = event

    def _on_completed(self, event: events.TaskCompleted) -> None:
        self.running.pop((event.topic, event.task_id), None)
        self.outcomes["completed"] += 1
        self.task_seconds.observe(event.duration_ms / 1000.0)
        self.queue_seconds.observe(event.queue_ms / 1000.0)

    def _on_failed(self, event: events.TaskFailed) -> None:
        self.running.pop((event.topic, event.task_id), None)
        self.outcomes["failed"] += 1
        self.failures[event.failure] += 1
        self.task_seconds.observe(event.duration_ms / 1000.0)

    def _on_retried(self, event: events.TaskRetried) -> None:
        self.retries += 1

    def _on_cancelled(self, event: events.TaskCancelled) -> None:
        self.running.pop((event.topic, event.task_id), None)
        self.outcomes["cancelled"] += 1

    def _on_dead_lettered(self, event: events.DeadLettered) -> None:
        self.dead_letters[event.stage] += 1

    def _count_rebalance(self, kind: str) -> None:
        self.rebalances[kind] += 1

    def _on_committed(self, event: events.Committed) -> None:
        self.commits += 1

    def _on_spawner_lost(self, event: events.SpawnerLost) -> None:
        self.spawner_restarts += 1

    def _on_periodic_run(self, event: events.PeriodicRun) -> None:
        self.periodic[event.name, event.status] += 1

    def _on_control(self, event: events.Control) -> None:
        self.control[event.action, event.outcome] += 1

    def snapshot(self) -> dict[str, Any]:
        """The run state's ``counters``."""
        return {
            "consumed": self.consumed.total(),
            "tasks_completed": self.outcomes["completed"],
            "tasks_failed": self.outcomes["failed"],
            "tasks_retried": self.retries,
            "tasks_cancelled": self.outcomes["cancelled"],
            "fates": dict(self.fates),
            "dead_letters": self.dead_letters.total(),
        }

    def running_tasks(self) -> list[dict[str, Any]]:
        """The attempts that hold a slot now; ``started_at`` is UTC epoch seconds."""
        return [
            {name: getattr(event, name) for name in RUNNING_FIELDS}
            | {"labels": dict(event.labels), "started_at": event.at}
            for event in self.running.values()
            if event.slot is not None
        ]

    def latency(self) -> dict[str, Any]:
        """The run state's ``latency``: message latency in fixed log buckets."""
        return {"buckets": list(BUCKETS_SECONDS), "counts": list(self.message_seconds.counts)}


def _nothing(event: events.Event) -> None:
    return None


class WorkerCollector(Collector):
    """All metrics of SPEC section 9 that have a source in this process."""

    def __init__(
        self, counters: Counters, snapshot: Callable[[], Mapping[str, Any]], labels: dict[str, str]
    ) -> None:
        self._counters = counters
        self._snapshot = snapshot
        self._labels = labels

    def collect(self) -> Iterator[Any]:
        """Render everything; runs on the metrics port's threads."""
        snapshot = self._snapshot()
        yield from self._counted()
        yield from self._partitions(snapshot["partitions"])
        yield from self._sinks(snapshot["sinks"])
        yield from self._rest(snapshot)

    def _counted(self) -> Iterator[Any]:
        figures = self._counters
        yield self._counter(
            "messages_consumed", "Messages handed over.", figures.consumed, "partition"
        )
        yield self._counter("message_fates", "Messages by fate.", figures.fates, "fate")
        yield self._counter("executor_tasks", "Attempts by outcome.", figures.outcomes, "outcome")
        yield self._counter(
            "executor_failures", "Failed attempts by kind.", figures.failures, "kind"
        )
        yield self._counter("dead_letters", "Dead letters by stage.", figures.dead_letters, "stage")
        yield self._counter(
            "rebalances", "Assigned, revoked and lost partitions.", figures.rebalances, "type"
        )
        yield self._counter("commit_errors", "Refused commits.", figures.commit_errors, "code")
        yield self._counter(
            "fenced_results", "Attempts whose epoch was lost.", figures.fenced_results
        )
        yield from self._paired()
        yield self._counter("task_retries", "Retries of tasks.", figures.retries)
        yield self._counter("commits", "Acknowledged offset commits.", figures.commits)
        yield self._counter("spawner_restarts", "Spawners that died.", figures.spawner_restarts)
        for name, text, histogram in (
            ("executor_duration_seconds", "Run time of attempts.", figures.task_seconds),
            ("executor_queue_wait_seconds", "Wait for a slot.", figures.queue_seconds),
            ("message_latency_seconds", "Consumed to fate.", figures.message_seconds),
        ):
            yield histogram.family(f"drakkar_{name}", text, self._labels)

    def _paired(self) -> Iterator[Any]:
        """Counters with two labels of their own."""
        figures = self._counters
        runs = self._family(
            CounterMetricFamily, "periodic_runs", "Runs of periodic jobs.", "name", "status"
        )
        requests = self._family(
            CounterMetricFamily, "control_requests", "Operators' requests.", "action", "outcome"
        )
        for family, counts in ((runs, figures.periodic), (requests, figures.control)):
            for pair, count in counts.copy().items():
                family.add_metric([*self._labels.values(), *pair], count)
            yield family

    def _partitions(self, rows: list[dict[str, Any]]) -> Iterator[Any]:
        gauges = {
            "consumer_lag": ("Messages between the committed offset and the end.", "lag"),
            "partition_queue_messages": ("Messages and tasks that wait.", "queue"),
        }
        for name, (text, key) in gauges.items():
            yield self._gauge(
                name, text, {row["partition"]: row.get(key) for row in rows}, "partition"
            )
        ages = {row["partition"]: (row["blocker"] or {}).get("age_seconds") or 0.0 for row in rows}
        yield self._gauge(
            "oldest_uncommitted_age_seconds", "Age of the commit blocker.", ages, "partition"
        )
        state = GaugeMetricFamily(
            "drakkar_partition_state",
            "1 for the state a partition is in.",
            labels=[*self._labels, "partition", "state"],
        )
        for row in rows:
            for name in PARTITION_STATES:
                labels = [*self._labels.values(), str(row["partition"]), name]
                state.add_metric(labels, float(row["state"] == name))
        yield state
        yield self._gauge("assigned_partitions", "Partitions owned.", len(rows))

    def _sinks(self, rows: list[dict[str, Any]]) -> Iterator[Any]:
        delivered = self._family(
            CounterMetricFamily, "sink_delivered", "Payloads stored.", "sink", "kind"
        )
        errors = self._family(
            CounterMetricFamily, "sink_errors", "Failed batches.", "sink", "kind", "class"
        )
        for row in rows:
            base = [*self._labels.values(), row["name"]]
            delivered.add_metric([*base, row["kind"]], row["delivered"])
            for error_class, count in row.get("errors_by_class", {}).items():
                errors.add_metric([*base, row["kind"], error_class], count)
        yield from (delivered, errors)
        retries = {row["name"]: row["retries"] for row in rows}
        yield self._counter("sink_retries", "Repeated deliveries.", retries, "sink")
        queued = {row["name"]: row["queue_bytes"] for row in rows}
        yield self._gauge("sink_queue_bytes", "Bytes that wait in the lane.", queued, "sink")
        circuits = {row["name"]: CIRCUIT_NUMBER[Circuit(row["breaker"])] for row in rows}
        yield self._gauge("sink_circuit_state", "0 closed, 1 half-open, 2 open.", circuits, "sink")

    def _rest(self, snapshot: Mapping[str, Any]) -> Iterator[Any]:
        info = InfoMetricFamily(
            "drakkar_worker", "Version of the worker.", labels=list(self._labels)
        )
        info.add_metric(list(self._labels.values()), {"version": snapshot["version"]})
        yield info
        pool, recorder = snapshot["pool"], snapshot["recorder"]
        slots = {"busy": pool["busy"], "free": pool["slots"] - pool["busy"]}
        yield self._gauge("executor_slots", "Slots by state.", slots, "state")
        yield self._gauge(
            "queued_bytes", "Bytes between hand-over and fate.", snapshot["queued_bytes"]
        )
        yield self._gauge("backpressure_active", "1 while there is no room.", snapshot["is_full"])
        yield self._gauge(
            "loop_lag_seconds", "How late the loop's tick was.", snapshot["loop_lag_seconds"]
        )
        yield self._gauge("recorder_buffer_events", "Events that wait.", recorder["buffer_events"])
        yield self._gauge("recorder_spooled_bytes", "Bytes on disk.", recorder["spooled_bytes"])
        yield self._counter("recorder_shed", "Events not kept.", recorder["shed"])
        hooks = snapshot["hooks"]
        seconds = {name: figures["seconds"] for name, figures in hooks.items()}
        errors = {name: figures["errors"] for name, figures in hooks.items()}
        calls = {name: figures["calls"] for name, figures in hooks.items()}
        yield self._summary("handler_duration_seconds", "Time in hooks.", calls, seconds)
        unparsed = errors.get("parse", 0)
        yield self._counter("parse_errors", "Messages that did not parse.", unparsed)
        yield self._counter("handler_errors", "Hooks that raised.", errors, "hook")

    def _family(self, cls: type[Any], name: str, text: str, *labels: str) -> Any:
        return cls(f"drakkar_{name}", text, labels=[*self._labels, *labels])

    def _summary(
        self, name: str, text: str, calls: dict[str, int], seconds: dict[str, float]
    ) -> Any:
        family = self._family(SummaryMetricFamily, name, text, "hook")
        for hook, count in calls.items():
            family.add_metric([*self._labels.values(), hook], count, seconds[hook])
        return family

    def _counter(self, name: str, text: str, values: Any, *labels: str) -> Any:
        return self._fill(self._family(CounterMetricFamily, name, text, *labels), values)

    def _gauge(self, name: str, text: str, values: Any, *labels: str) -> Any:
        return self._fill(self._family(GaugeMetricFamily, name, text, *labels), values)

    def _fill(self, family: Any, values: Any) -> Any:
        """Add one sample, or one per key; an unknown value (None) gives no sample, never 0."""
        rows = list(values.items()) if isinstance(values, Mapping) else [(None, values)]
        for key, value in rows:
            if value is not None:
                own = [] if key is None else [str(key)]
                family.add_metric([*self._labels.values(), *own], float(value))
        return family
