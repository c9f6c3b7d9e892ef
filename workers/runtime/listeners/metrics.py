"""Figures of a worker as Prometheus metrics (docs/metrics.md), rendered only when asked for.

They come from ``Counters``, which listens to events, and from the live snapshot.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector

from domain.beat import PartitionBeat, PartitionState, SinkBeat
from domain.breaker import CIRCUIT_NUMBER, Circuit
from domain.histogram import DOUBLING_SECONDS
from sinks.statistics import BUCKET_BOUNDS_SECONDS
from workers.runtime.figures import WorkerFigures
from workers.runtime.listeners.counters import Counters, retry_label
from workers.runtime.listeners.streams import lost_lines


class WorkerCollector(Collector):
    """Metrics that have a source in this process; what is not known gives no sample."""

    def __init__(
        self, counters: Counters, figures: Callable[[], WorkerFigures], labels: dict[str, str]
    ) -> None:
        self._counters = counters
        self._figures = figures
        self._labels = labels

    def collect(self) -> Iterator[Any]:
        """Render everything; runs on the metrics port's threads."""
        figures = self._figures()
        yield from self.counted()
        yield from self._partitions(figures.beat.partitions)
        yield from self._sinks(figures.beat.sinks)
        yield from self._rest(figures)

    def counted(self) -> Iterator[Any]:
        """Render what is counted of events and errors in this process."""
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
        yield self._counter(
            "process_replacements",
            "Persistent processes replaced.",
            figures.process_replacements,
            "cause",
        )
        yield self._counter(
            "listener_errors",
            "Events a listener failed on.",
            figures.listener_errors,
            "listener",
        )
        yield self._counter(
            "uncaught_errors", "Errors nobody caught, by where.", figures.uncaught, "where"
        )
        yield self._counter("log_lost_lines", "Lines the log could not write.", lost_lines())
        for name, text, histogram in (
            ("executor_duration_seconds", "Run time of attempts.", figures.task_seconds),
            ("executor_queue_wait_seconds", "Wait for a slot.", figures.queue_seconds),
            ("executor_spawn_seconds", "From slot to start.", figures.spawn_seconds),
            ("message_latency_seconds", "Consumed to fate.", figures.message_seconds),
        ):
            yield self._histogram(name, text, histogram.counts, histogram.sum_seconds)

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

    def _partitions(self, rows: Sequence[PartitionBeat]) -> Iterator[Any]:
        for name, text, values in (
            (
                "consumer_lag",
                "Messages between the committed offset and the end.",
                {_label(row): row.lag for row in rows},
            ),
            (
                "partition_queue_messages",
                "Messages and tasks that wait.",
                {_label(row): row.queue for row in rows},
            ),
        ):
            yield self._gauge(name, text, values, "partition")
        ages = {
            _label(row): (row.blocker.age_seconds if row.blocker else None) or 0.0 for row in rows
        }
        yield self._gauge(
            "oldest_uncommitted_age_seconds", "Age of the commit blocker.", ages, "partition"
        )
        state = GaugeMetricFamily(
            "drakkar_partition_state",
            "1 for the state a partition is in.",
            labels=[*self._labels, "partition", "state"],
        )
        for row in rows:
            for name in PartitionState:
                labels = [*self._labels.values(), str(_label(row)), name]
                state.add_metric(labels, float(row.state == name))
        yield state
        yield self._gauge("assigned_partitions", "Partitions owned.", len(rows))

    def _sinks(self, rows: Sequence[SinkBeat]) -> Iterator[Any]:
        delivered = self._family(
            CounterMetricFamily, "sink_delivered", "Payloads stored.", "sink", "kind"
        )
        errors = self._family(
            CounterMetricFamily, "sink_errors", "Failed batches.", "sink", "kind", "class"
        )
        for row in rows:
            base = [*self._labels.values(), row.name]
            delivered.add_metric([*base, row.kind], row.delivered)
            for error_class, count in row.errors_by_class.items():
                errors.add_metric([*base, row.kind, error_class], count)
        yield from (delivered, errors)
        retries = {row.name: row.retries for row in rows}
        yield self._counter("sink_retries", "Repeated deliveries.", retries, "sink")
        dropped = {row.name: row.reconnects for row in rows}
        text = "Connections given up because they stored nothing."
        yield self._counter("sink_reconnects", text, dropped, "sink")
        queued = {row.name: row.queue_bytes for row in rows}
        yield self._gauge("sink_queue_bytes", "Bytes that wait in the lane.", queued, "sink")
        circuits = {row.name: CIRCUIT_NUMBER[Circuit(row.breaker)] for row in rows if row.breaker}
        yield self._gauge("sink_circuit_state", "0 closed, 1 half-open, 2 open.", circuits, "sink")
        durations = self._family(
            HistogramMetricFamily, "sink_delivery_seconds", "Delivering a batch.", "sink"
        )
        for row in rows:
            buckets = _buckets(BUCKET_BOUNDS_SECONDS, row.latency_counts)
            labels = [*self._labels.values(), row.name]
            durations.add_metric(labels, buckets, row.latency_sum_seconds)
        yield durations

    def _rest(self, figures: WorkerFigures) -> Iterator[Any]:
        info = InfoMetricFamily(
            "drakkar_worker", "Version of the worker.", labels=list(self._labels)
        )
        info.add_metric(list(self._labels.values()), {"version": figures.version})
        yield info
        pool, recorder = figures.beat.pool, figures.beat.recorder
        busy, slots = pool.busy or 0, pool.slots or 0
        yield self._gauge(
            "executor_slots", "Slots by state.", {"busy": busy, "free": slots - busy}, "state"
        )
        for_key, for_group = pool.waiting_for_key or 0, pool.waiting_for_group or 0
        waiting = {"slot": (pool.waiting or 0) - for_group, "group": for_group, "key": for_key}
        yield self._gauge("executor_waiting_tasks", "Tasks by what they wait for.", waiting, "for")
        yield self._gauge("queued_bytes", "Bytes between hand-over and fate.", figures.queued_bytes)
        yield self._gauge("backpressure_active", "1 while there is no room.", figures.is_full)
        yield self._gauge(
            "loop_lag_seconds", "How late the loop's tick was.", figures.loop_lag_seconds
        )
        yield self._gauge("recorder_buffer_events", "Events that wait.", recorder.buffer_events)
        yield self._gauge("recorder_spooled_bytes", "Bytes on disk.", recorder.spooled_bytes)
        yield self._counter("recorder_shed", "Events not kept.", recorder.shed)
        if recorder.flush_counts:
            counts, total = recorder.flush_counts, recorder.flush_sum_seconds or 0.0
            yield self._histogram("recorder_flush_seconds", "Storing a batch.", counts, total)
        hooks = figures.hooks
        seconds = {name: each.seconds for name, each in hooks.items()}
        errors = {name: each.errors for name, each in hooks.items()}
        calls = {name: each.calls for name, each in hooks.items()}
        yield self._summary("handler_duration_seconds", "Time in hooks.", calls, seconds)
        unparsed = errors.get("parse", 0)
        yield self._counter("parse_errors", "Messages that did not parse.", unparsed)
        yield self._counter("handler_errors", "Hooks that raised.", errors, "hook")
        yield self._counter("cut_texts", "Labels and reasons cut.", figures.cuts, "what")

    def _family(self, cls: type[Any], name: str, text: str, *labels: str) -> Any:
        return cls(f"drakkar_{name}", text, labels=[*self._labels, *labels])

    def _summary(
        self, name: str, text: str, calls: dict[str, int], seconds: dict[str, float]
    ) -> Any:
        family = self._family(SummaryMetricFamily, name, text, "hook")
        for hook, count in calls.items():
            family.add_metric([*self._labels.values(), hook], count, seconds[hook])
        return family

    def _histogram(self, name: str, text: str, counts: Sequence[int], total: float) -> Any:
        family = self._family(HistogramMetricFamily, name, text)
        family.add_metric(list(self._labels.values()), _buckets(DOUBLING_SECONDS, counts), total)
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


def _label(row: PartitionBeat) -> int | str:
    """Only partitions of the retry topic tell what they hold."""
    return row.partition if row.held is None else retry_label(row.partition)


def _buckets(bounds: Sequence[float], counts: Sequence[int]) -> list[tuple[str, float]]:
    """Prometheus' buckets: cumulative, the last one without bound."""
    names = (*(f"{bound:.6g}" for bound in bounds), "+Inf")
    return list(zip(names, accumulate(counts), strict=True))
