"""Figures of a worker: its heartbeat, and what only the metrics port shows besides."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache

from domain.beat import Beat, PartitionBeat, PoolBeat, RecorderBeat, RunningTask
from recorder.recorder import Recorder
from workers.consumer.fair_fetch import reserve_of
from workers.consumer.ownership import Claim, PartitionFigures
from workers.pipeline.hooks import HookFigures
from workers.pipeline.life_cycle import LiveTask
from workers.pipeline.partition import PartitionWorker
from workers.runtime.worker_parts import WorkerParts


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerFigures:
    """Figures of a worker at one moment. ``is_full``: there is no room to take in more; ``cuts``
    counts texts that were cut, by what they are; hooks by name."""

    beat: Beat
    version: str
    loop_lag_seconds: float
    queued_bytes: int
    is_full: bool
    hooks: Mapping[str, HookFigures]
    cuts: Mapping[str, int]


def worker_figures(
    parts: WorkerParts,
    *,
    state: str,
    waiting_for: str,
    state_since: float,
    loop_lag_seconds: float,
) -> WorkerFigures:
    """Return what all parts of a worker show now. Loop thread only."""
    board, epochs, slots = parts.board, parts.epochs, parts.slots
    beat = Beat(
        state=state,
        waiting_for=waiting_for,
        state_since=state_since,
        rss_bytes=rss_bytes(),
        counters=parts.counters.snapshot(),
        pool=PoolBeat(
            slots=slots.count,
            busy=slots.busy,
            waiting=slots.waiting,
            waiting_for_group=slots.waiting_for_group,
            waiting_for_key=sum(one.keys.waiting_count for one in epochs.partitions.values()),
            running=_running(parts),
        ),
        partitions=partition_figures(epochs.partitions, parts.membership.figures()),
        sinks=tuple(lane.statistics() for lane in parts.lanes.values() if lane.is_started),
        latency=parts.counters.latency(),
        recorder=recorder_figures(parts.recorder),
    )
    return WorkerFigures(
        beat=beat,
        version=parts.run.version,
        loop_lag_seconds=loop_lag_seconds,
        queued_bytes=parts.budget.bytes,
        is_full=board.room_messages <= reserve_of(board.most_messages),
        hooks={name: replace(each) for name, each in parts.hooks.figures.items()},
        cuts=parts.hooks.bounds.cuts.copy(),
    )


def _running(parts: WorkerParts) -> tuple[RunningTask, ...]:
    """Attempts that hold a slot, with what is known of their programs and tasks: starts tell of
    neither."""
    tasks = {
        (claim.topic, claim.partition): one.tasks for claim, one in parts.epochs.partitions.items()
    }
    found = []
    for each in parts.counters.running_tasks():
        place = each.topic or "", -1 if each.partition is None else each.partition
        live = tasks[place].get(each.task_id) if place in tasks else None
        found.append(each if live is None else _with_live(each, live))
    return tuple(found)


def _with_live(told: RunningTask, live: LiveTask) -> RunningTask:
    told = replace(told, key=live.task.key, group=live.task.group)
    if live.attempt != told.attempt:
        return told
    return replace(told, pid=live.pid, progress=live.progress, note=live.note or None)


class StateTimer:
    """Keep since when something is as it is; for one thread."""

    def __init__(self) -> None:
        self._is = ""
        self._since = 0.0

    def since(self, what: str, now: float) -> float:
        """Return when it was first told to be so, and so ever since."""
        if what != self._is:
            self._is, self._since = what, now
        return self._since


@cache
def _statm() -> int:
    """Open the file for good: a process that has no descriptor left still knows its size."""
    return os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)


def rss_bytes() -> int:
    """Return the bytes this process holds in memory: its resident pages (proc(5), ``statm``)."""
    pages = int(os.pread(_statm(), 200, 0).split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def recorder_figures(recorder: Recorder | None) -> RecorderBeat:
    """Return how the recorder stands; zeros without one."""
    if recorder is None:
        return RecorderBeat(buffer_events=0, spooled_bytes=0, shed=0)
    figures = recorder.figures()
    return RecorderBeat(
        buffer_events=figures.buffer_events,
        spooled_bytes=figures.spooled_bytes,
        shed=figures.shed,
        flush_counts=tuple(figures.flush_counts),
        flush_sum_seconds=figures.flush_sum_seconds,
    )


def partition_figures(
    partitions: Mapping[Claim, PartitionWorker], known: Mapping[Claim, PartitionFigures]
) -> tuple[PartitionBeat, ...]:
    """Return what its worker and the consumer thread know of each partition, by place."""
    rows = (_partition(worker.figures(), known.get(claim)) for claim, worker in partitions.items())
    return tuple(sorted(rows, key=lambda row: row.place))


def _partition(beat: PartitionBeat, owned: PartitionFigures | None) -> PartitionBeat:
    if owned is None:
        return beat
    high, committed = owned.high_watermark, owned.committed
    return replace(
        beat,
        position=owned.position,
        committed=committed,
        high_watermark=high,
        lag=None if high is None or committed is None else max(0, high - committed),
    )
