"""The figures of a worker as heartbeat, metrics port and pages take them: plain JSON-able rows."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache
from typing import Any

from recorder.recorder import Recorder
from sinks.lane import Lane
from workers.consumer.fair_fetch import reserve_of
from workers.consumer.ownership import Claim, PartitionFigures
from workers.executor.slots import Slots
from workers.pipeline.hooks import HookFigures
from workers.pipeline.partition import PartitionWorker
from workers.runtime.worker_parts import WorkerParts


def worker_figures(parts: WorkerParts) -> dict[str, Any]:
    """What all parts of a worker show now."""
    board, epochs = parts.board, parts.epochs
    return {
        "version": parts.run.version,
        "rss_bytes": rss_bytes(),
        "counters": parts.counters.snapshot(),
        "latency": parts.counters.latency(),
        "pool": pool_figures(parts.slots) | {"running": parts.counters.running_tasks()},
        "partitions": partition_figures(epochs.partitions, parts.membership.figures()),
        "sinks": [sink_figures(*lane) for lane in parts.lanes.items() if epochs.is_open],
        "recorder": recorder_figures(parts.recorder),
        "queued_bytes": parts.budget.bytes,
        "is_full": float(board.room_messages <= reserve_of(board.most_messages)),
        "hooks": hook_figures(parts.hooks.figures),
        "cuts": parts.hooks.bounds.cuts.copy(),
    }


class StateTimer:
    """Since when something is as it is; for one thread."""

    def __init__(self) -> None:
        self._is = ""
        self._since = 0.0

    def since(self, what: str, now: float) -> float:
        """When it was first told to be so, and so ever since."""
        if what != self._is:
            self._is, self._since = what, now
        return self._since


@cache
def _statm() -> int:
    """Open for good: a process that has no descriptor left still knows its size."""
    return os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)


def rss_bytes() -> int:
    """What this process holds in memory now: its resident pages (proc(5), ``statm``)."""
    pages = int(os.pread(_statm(), 200, 0).split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def pool_figures(slots: Slots) -> dict[str, int]:
    """Slots, busy ones, and tasks that wait for one."""
    return {"slots": slots.count, "busy": slots.busy, "waiting": slots.waiting}


def recorder_figures(recorder: Recorder | None) -> dict[str, Any]:
    """How the recorder stands; zeros without one."""
    if recorder is None:
        return {"buffer_events": 0, "spooled_bytes": 0, "shed": 0}
    figures = recorder.figures()
    return {
        "buffer_events": figures.buffer_events,
        "spooled_bytes": figures.spooled_bytes,
        "shed": figures.shed,
        "flush_counts": figures.flush_counts,
        "flush_sum_seconds": figures.flush_sum_seconds,
    }


def hook_figures(figures: Mapping[str, HookFigures]) -> dict[str, dict[str, Any]]:
    """Calls, errors and seconds by hook."""
    return {
        name: {"calls": each.calls, "errors": each.errors, "seconds": each.seconds}
        for name, each in figures.items()
    }


def partition_figures(
    partitions: Mapping[Claim, PartitionWorker], known: Mapping[Claim, PartitionFigures]
) -> list[dict[str, Any]]:
    """A row a partition: what its worker and what the consumer thread know; None is unknown."""
    rows = []
    for claim, partition in partitions.items():
        owned = known.get(claim)
        committed = owned.committed if owned else None
        high = owned.high_watermark if owned else None
        lag = None if high is None or committed is None else max(0, high - committed)
        rows.append(
            partition.figures()
            | {
                "position": owned.position if owned else None,
                "committed": committed,
                "high_watermark": high,
                "lag": lag,
            }
        )
    return sorted(rows, key=lambda row: (row["topic"], row["partition"]))


def sink_figures(name: str, lane: Lane) -> dict[str, Any]:
    """A sink's statistics as a heartbeat stores them; an unknown figure is None."""
    statistics = lane.statistics()
    return {
        "name": name,
        "kind": statistics.kind,
        "delivered": statistics.delivered,
        "errors": sum(statistics.errors.values()),
        "errors_by_class": statistics.errors,
        "retries": statistics.retries,
        "reconnects": statistics.reconnects,
        "last_delivery_at": statistics.last_delivery_at,
        "last_duration_ms": _ms(statistics.last_duration_seconds),
        "p50_ms": _ms(statistics.p50_seconds),
        "p95_ms": _ms(statistics.p95_seconds),
        "p99_ms": _ms(statistics.p99_seconds),
        "queue_bytes": statistics.queue_bytes,
        "queue_entries": statistics.queue_entries,
        "breaker": statistics.circuit.value,
        "next_probe_seconds": statistics.next_probe_seconds,
        "last_error": statistics.last_error,
        "last_error_at": statistics.last_error_at,
        "last_error_class": statistics.last_error_class,
        "latency_counts": statistics.latency_counts,
        "latency_sum_seconds": statistics.latency_sum_seconds,
        "is_paused": statistics.is_paused,
        "waiting_for": statistics.waiting_for,
    }


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1000.0
