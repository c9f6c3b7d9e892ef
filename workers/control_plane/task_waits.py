"""Why a task has not ended, by the last beat of the worker that has it."""

from __future__ import annotations

from dataclasses import dataclass

from domain.beat import Blocker, PartitionBeat
from domain.block_cause import Block, BlockFigures, block_of
from recorder.models import RunState
from workers.control_plane.queries import beats, is_live, latest, read_at

BROKEN = ("open", "half_open", "half-open")


@dataclass(frozen=True, slots=True)
class HeldBack:
    """Task that holds back the commit of a partition, with the worker that has it and why."""

    worker: str
    partition: PartitionBeat
    seconds: float | None
    block: Block


def held_back_by(cluster: str, task_id: str) -> HeldBack | None:
    """Return what the task holds back; None: it is the oldest of no partition of a live worker."""
    for beat in latest(beats(cluster)).values():
        for row in beat.partitions if is_live(beat) else ():
            blocker = row.blocker
            if blocker is not None and blocker.task_id == task_id:
                return HeldBack(
                    beat.run.worker, row, blocked_seconds(beat, blocker), block_by(beat, blocker)
                )
    return None


def blocked_seconds(beat: RunState, blocker: Blocker) -> float | None:
    """Return for how long its message has had no fate, by the database's clock; None: unknown."""
    if blocker.age_seconds is None:
        return None
    return blocker.age_seconds + max(0.0, (read_at(beat) - beat.beat_at).total_seconds())


def block_by(beat: RunState, blocker: Blocker) -> Block:
    """Say why the blocking task has not ended, by its worker's last beat."""
    running = beat.pool.running
    own = next((task for task in running or () if task.task_id == blocker.task_id), None)
    begun = None if own is None else own.started_at
    now = read_at(beat).timestamp()
    return block_of(
        BlockFigures(
            blocked_seconds=blocked_seconds(beat, blocker),
            running_seconds=None if begun is None else max(0.0, now - begun),
            attempt=None if own is None else own.attempt,
            progress=None if own is None else own.progress,
            note=None if own is None else own.note,
            is_waiting=running is not None and own is None,
            waits_for=blocker.waits_for,
            slots=beat.pool.slots,
            busy=beat.pool.busy,
            waiting=beat.pool.waiting,
            sinks_away=[sink.name for sink in beat.sinks if sink.breaker in BROKEN],
        )
    )
