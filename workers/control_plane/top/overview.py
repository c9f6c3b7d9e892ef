"""What ``top`` shows of a moment: workers by name, lag by cluster, groups of failures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.utils import timezone

from domain.beat import PartitionBeat, RunningTask, SinkBeat
from domain.unknown import total
from recorder.failures.reading import Filters, groups
from recorder.models import FailureGroup, RunState
from workers.control_plane.queries import (
    age_seconds,
    beats,
    cluster_lags,
    controller_beat,
    is_live,
    latest,
    partitions_of,
)
from workers.control_plane.unowned_partitions import unowned_partitions

FAILURES_OF = timedelta(days=1)
MOST_FAILURES = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRow:
    """A worker's name and its latest run; figures of one that does not live, and unknown ones, are
    None. ``lag`` is over its partitions, counters since the run began, times UTC epoch seconds."""

    cluster: str
    worker: str
    state: str
    age_seconds: float
    slots: int | None
    busy: int | None
    waiting: int | None
    lag: int | None
    completed: int | None
    failed: int | None
    dead_letters: int | None
    read_at: float
    running: Sequence[RunningTask] = ()
    partitions: Sequence[PartitionBeat] = ()
    sinks: Sequence[SinkBeat] = ()

    @property
    def key(self) -> str:
        """Name of its row; no cluster's name has a slash."""
        return f"{self.cluster}/{self.worker}"


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureRow:
    """A group of failures that are not resolved or ignored, of the last day."""

    cluster: str
    title: str
    kind: str
    count: int
    last_seen: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """All of it; ``lags`` by cluster, None: unknown."""

    at: datetime
    workers: Sequence[WorkerRow]
    lags: Mapping[str, int | None]
    failures: Sequence[FailureRow]

    def worker(self, key: str) -> WorkerRow | None:
        """Return the row of that key; None: it is not known any more."""
        return next((row for row in self.workers if row.key == key), None)


def overview(cluster: str = "") -> Overview:
    """Read the moment, of one cluster or, empty, of all. Raises DatabaseError."""
    found = beats(cluster)
    names = latest(found)
    open_ = [each for each in unowned_partitions(found) if cluster in ("", each["cluster"])]
    return Overview(
        at=timezone.now(),
        workers=[_row(beat) for _, beat in sorted(names.items())],
        lags=dict(sorted(cluster_lags(found, open_, controller_beat()).items())),
        failures=_failures(cluster),
    )


def _row(beat: RunState) -> WorkerRow:
    lives = is_live(beat)
    owned = [each.beat for each in partitions_of([beat])] if lives else []
    pool = beat.pool
    return WorkerRow(
        cluster=beat.run.cluster,
        worker=beat.run.worker,
        state=beat.state,
        age_seconds=age_seconds(beat),
        slots=pool.slots if lives else None,
        busy=pool.busy if lives else None,
        waiting=pool.waiting if lives else None,
        lag=total(each.lag for each in owned) if lives else None,
        completed=beat.counters.tasks_completed,
        failed=beat.counters.tasks_failed,
        dead_letters=beat.counters.dead_letters,
        read_at=timezone.now().timestamp(),
        running=(pool.running or ()) if lives else (),
        partitions=owned,
        sinks=beat.sinks if lives else (),
    )


def _failures(cluster: str) -> list[FailureRow]:
    since = timezone.now() - FAILURES_OF
    found = groups(Filters(cluster=cluster, state="open", since=since)).order_by("-last_seen")
    return [_failure(group) for group in found[:MOST_FAILURES]]


def _failure(group: FailureGroup) -> FailureRow:
    return FailureRow(
        cluster=group.cluster,
        title=group.title,
        kind=group.kind,
        count=group.count,
        last_seen=group.last_seen,
    )
