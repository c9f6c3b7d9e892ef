"""Figures of the sample fleet over days: a day's tide, a deploy that slows tasks, and a while of
which nothing is known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from datetime import datetime, timedelta
from math import pi, sin
from typing import Any

from django.db import connection
from django.db.models import Model
from django.utils import timezone

from domain.log_buckets import bucket_of
from recorder.models import Event, Gauge, Rollup, Run, RunState
from recorder.rollups.projection import NO_RUN, source_of
from recorder.rollups.sums import DAY, HOUR, MINUTE
from recorder.runs import uuid7
from tests.browser.sample import PROGRAMS

TENANTS = ("acme", "gamla", "nord", "sund")
DEPLOYED = timedelta(minutes=40)
"""So long ago worker-2 got another program, which is slower."""
UNKNOWN = (timedelta(minutes=25), timedelta(minutes=20))
GAUGES = {"lag": 900.0, "slots": 8.0, "slots_busy": 6.0, "waiting": 60.0}
Cell = dict[str, Any]


def rollups(runs: Sequence[Run], *, minutes: int = 130, hours: int = 0) -> None:
    """Write the minutes up to now, and the hours up to the one that runs."""
    now = timezone.now()
    rows: list[Cell] = []
    gauges: list[Cell] = []
    for number, run in enumerate(runs):
        sources = source_of(_with_program(run, PROGRAMS[0])), source_of(run)
        for step, count, owner in ((MINUTE, minutes, run.id), (HOUR, hours, NO_RUN)):
            last = int(now.timestamp()) // step * step
            for start in range(last - count * step, last + step, step):
                if step == MINUTE and _is_unknown(now, start):
                    continue
                source = sources[start > (now - DEPLOYED).timestamp()]
                place = {"step": step, "start": start, "run": owner, "source": source}
                rows += [{**place, **cell} for cell in _cells(number, now, start, step)]
                gauges += [_gauge(place, name, number) for name in GAUGES]
    _copy(Rollup, rows)
    _copy(Gauge, gauges)


def _copy(model: type[Model], rows: Sequence[Cell]) -> None:
    """Store rows of the same keys, thousands in a moment."""
    names = list(rows[0])
    table = model._meta.db_table
    with (
        connection.cursor() as cursor,
        cursor.copy(f"COPY {table} ({', '.join(names)}) FROM STDIN") as copy,
    ):
        for row in rows:
            copy.write_row([row[name] for name in names])


def deploy(run: Run) -> None:
    """Tell of the deploy, of the run before it, of a rebalance after it, and of a sink that was
    away."""
    now = timezone.now()
    before = _with_program(run, PROGRAMS[0])
    before.id, before.started_at = uuid7(now.timestamp() - 2 * DAY), now - timedelta(days=2)
    before.deployed_by = "mara"
    before.save(force_insert=True)
    RunState.objects.create(
        run=before, state="stopped", beat_at=now - DEPLOYED, ended_at=now - DEPLOYED,
        counters={"consumed": 61_300, "tasks_completed": 80_200, "tasks_failed": 90},
    )  # fmt: skip
    changes = [{"key": "program", "old": PROGRAMS[0], "new": PROGRAMS[1]}]
    run.started_at, run.run_before, run.version_changes = now - DEPLOYED, before.id, changes
    run.config_changes = [
        {"key": "executor.task_timeout_seconds", "old": "120", "new": "45"},
        {"key": "executor.limits.open_files", "old": None, "new": "256"},
    ]
    run.save()
    told: list[tuple[timedelta, str, dict[str, Any]]] = [
        (DEPLOYED, "version_changed", {"data": {"worker": run.worker, "changes": changes}}),
        (timedelta(minutes=39), "assigned", {"topic": "search.requests", "partition": 7}),
        (timedelta(minutes=12), "breaker_opened", {"sink": "archive"}),
        (timedelta(minutes=9), "breaker_closed", {"sink": "archive"}),
    ]
    Event.objects.bulk_create(
        Event(ts=now - ago, run=run.id, seq=20_000_000 + n, kind=kind, **columns)
        for n, (ago, kind, columns) in enumerate(told)
    )


def _with_program(run: Run, version: str) -> Run:
    """Return a run like it with that version of the program, not stored."""
    found = copy(run)
    found.program_version = version
    return found


def _is_unknown(now: datetime, start: int) -> bool:
    first, last = ((now - ago).timestamp() for ago in UNKNOWN)
    return first <= start < last


def _tide(start: int, number: int) -> float:
    """Return the load of a time of day, about 1, a little otherwise for each worker."""
    return 1.0 + 0.45 * sin(2 * pi * start / DAY + number) + 0.08 * sin(start / 400.0 + number)


def _cells(number: int, now: datetime, start: int, step: int) -> Iterator[Cell]:
    tide, share = _tide(start, number), step / MINUTE
    tasks = round(90 * tide * share)
    is_slow = number == 1 and start > (now - DEPLOYED).timestamp()
    mean_ms = (900 if is_slow else 420) * (1 + 0.1 * number)
    failed = round(tasks * (0.06 if is_slow else 0.012))
    yield _cell("message", "delivered", tasks // 3, mean_ms * 1.6)
    yield _cell("task", "completed", tasks - failed, mean_ms, memory=tide)
    yield _cell("task", "failed", failed - failed // 4, mean_ms / 3, failure="exit")
    yield _cell("task", "failed", failed // 4, 45_000, failure="timeout")
    yield _cell("delivery", "delivered", tasks // 3, 14 * tide, sink="results")
    yield _cell("delivery", "delivered", tasks // 3, 55 * tide, sink="archive")
    yield _cell("letter", "task", failed // 5, None, failure="exit")
    for n, tenant in enumerate(TENANTS):
        yield _cell("label", "completed", tasks // (n + 2), mean_ms, label="tenant", value=tenant)


def _cell(
    subject: str,
    outcome: str,
    count: int,
    mean_ms: float | None,
    *,
    memory: float = 1.0,
    **key: str,
) -> Cell:
    spread = {} if mean_ms is None else {0.5: 0.35, 1.0: 0.45, 2.2: 0.16, 5.0: 0.04}
    durations, waits = [0] * 56, [0] * 56
    for factor, share in spread.items():
        durations[bucket_of(round((mean_ms or 0) * factor * 1000))] += round(count * share)
        waits[bucket_of(round(80_000 * factor))] += round(count * share)
    is_task = subject in ("task", "label")
    return {
        "failure": "", "sink": "", "label": "", "value": "", **key,
        "subject": subject,
        "outcome": outcome,
        "count": count,
        "duration_us": round((mean_ms or 0) * 1000 * count),
        "wait_us": 80_000 * count,
        "cpu_us": round((mean_ms or 0) * 800 * count) if is_task else None,
        "peak_rss_bytes": round(180e6 * memory) if is_task else None,
        "output_bytes": 2_000 * count if is_task else 0,
        "durations": _until_the_last(durations),
        "waits": _until_the_last(waits),
    }  # fmt: skip


def _until_the_last(counts: list[int]) -> list[int]:
    """Return them as they are stored: without the zeros at their end."""
    return counts[: max((n + 1 for n, count in enumerate(counts) if count), default=0)]


def _gauge(place: Cell, name: str, number: int) -> Cell:
    level = GAUGES[name] * (1.0 if name == "slots" else _tide(place["start"], number) / 1.6)
    figures = {"least": level * 0.8, "most": level * 1.1, "last": level}
    return {**place, "name": name, "count": 6, "total": 6 * level, **figures}
