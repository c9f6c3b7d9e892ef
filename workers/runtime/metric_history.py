"""Figures of a run over the last ten minutes: kept by the run itself, written by its heartbeat.

The dashboard draws them, so a page that is opened now, or a web process that was started now, shows
the time before it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from django.db.models.functions import Now

from domain.beat import Beat
from domain.unknown import known_total, total
from recorder.models import RunTrack
from recorder.runs import RunDescription

EVERY_SECONDS = 10.0
COUNTERS = ("consumed", "tasks_completed", "tasks_failed", "tasks_retried", "dead_letters")
"""Counters of a run that are kept over time, by their names in its heartbeat."""
EARLY_SECONDS = 1.0
"""A beat this much before its time is the one to take."""
KEPT_SAMPLES = 66
"""Ten minutes and what a page needs on both sides."""
OLD = timedelta(hours=1)
COUNTS, LAG, LATENCY, OWNED, SPOOLED, SHED = 1, 2, 3, 4, 5, 6
"""Places in a sample; the first is its UTC epoch seconds. Older samples are shorter."""


def forget_old() -> int:
    """Delete the rows of runs that wrote none for an hour; how many went. Raises DatabaseError."""
    return RunTrack.objects.filter(written_at__lt=Now() - OLD).delete()[0]


def gauges_of(beat: Beat) -> dict[str, float | None]:
    """Return the figures of a beat that charts show over days (``recorder.rollups.gauges``)."""
    pool, partitions = beat.pool, beat.partitions
    waiting = [pool.waiting, pool.waiting_for_key]
    return {
        "lag": total(row.lag for row in partitions),
        "slots": pool.slots,
        "slots_busy": pool.busy,
        "waiting": known_total(waiting),
        "partitions": len(partitions),
    }


class Track:
    """Samples of one run; for one thread."""

    def __init__(self, wall: Callable[[], float]) -> None:
        self._wall = wall
        self._samples: deque[list[Any]] = deque(maxlen=KEPT_SAMPLES)
        self._bounds: list[float] = []
        self._is_written = True

    @property
    def samples(self) -> list[list[Any]]:
        """Samples that are kept, oldest first."""
        return list(self._samples)

    def note(self, beat: Beat) -> None:
        """Keep a beat's figures when ten seconds have passed since the last that were kept."""
        at = self._wall()
        if self._samples and at - self._samples[-1][0] < EVERY_SECONDS - EARLY_SECONDS:
            return
        counts = [getattr(beat.counters, name) for name in COUNTERS]
        lag = total(row.lag for row in beat.partitions)
        self._bounds = list(beat.latency.buckets)
        spread, owned = list(beat.latency.counts) or None, len(beat.partitions)
        kept = [beat.recorder.spooled_bytes, beat.recorder.shed]
        self._samples.append([round(at, 1), counts, lag, spread, owned, *kept])
        self._is_written = False

    def write(self, run: RunDescription) -> None:
        """Replace the run's row where there is something new. Raises DatabaseError."""
        if self._is_written:
            return
        row = RunTrack(run_id=run.id, written_at=Now(), bounds=self._bounds, samples=self.samples)
        RunTrack.objects.bulk_create(
            [row],
            update_conflicts=True,
            unique_fields=["run"],
            update_fields=["written_at", "bounds", "samples"],
        )
        self._is_written = True
