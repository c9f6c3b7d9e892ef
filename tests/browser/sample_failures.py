"""Groups of the sample fleet's failures, of its letters, and of what failed earlier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from random import Random
from typing import Any
from uuid import UUID

from django.utils import timezone

from domain.fingerprint import Fingerprint, of_letter, of_task
from recorder.failures.counting import project_failures
from recorder.failures.grouping import Grouped
from recorder.failures.states import change
from recorder.models import Event, FailureGroup, Run
from recorder.rows import Row
from recorder.runs import RunDescription
from sinks.models import DeadLetter

TOPIC = "search.requests"
TENANTS = ("acme", "acme", "acme", "gamla", "nord")
EARLIER = (
    (b"Traceback (most recent call last):\nKeyError: 'quota'\n", 1, 340, 20),
    (b"connection to 10.3.0.7:5432 refused\n", 4, 61, 3),
    (b"out of memory: cannot allocate 1073741824 bytes\n", 137, 7, 9),
)
"""Stderr, exit code, failures, and hours ago that the last was."""


def failure_groups(runs: Sequence[Run]) -> None:
    """Make them: of the events and letters that are there, and three of the last day."""
    for run in runs:
        rows = [
            _row(each.ts, each.task_id, each.labels or {}, _of_task(each.stderr, each.exit_code))
            | {"partition": each.partition, "offset": each.offset}
            for each in Event.objects.filter(kind="task_failed", run=run.id)
        ]
        project_failures(_described(run.id), rows)
        Event.objects.filter(kind="task_failed", run=run.id).update(data=_data(rows))
    chance, now = Random(3), timezone.now()
    for stderr, code, count, ago in EARLIER:
        found = _of_task(stderr, code)
        moments = [now - timedelta(hours=ago + abs(chance.gauss(0, 1.6))) for _ in range(count)]
        rows = [
            _row(at, f"7:{n}:0", {"tenant": chance.choice(TENANTS)}, found)
            for n, at in enumerate(moments)
        ]
        project_failures(_described(chance.choice(runs).id), rows)
    _letters(runs[0])
    first = FailureGroup.objects.get(title__contains="refused")
    change(first, "acknowledge", actor="mara", now=now, note="moved to the new host", owner="mara")


def _letters(run: Run) -> None:
    for letter in DeadLetter.objects.all():
        found = of_letter(
            "main", letter.stage, letter.failure, reason=letter.reason,
            traceback=letter.traceback, sink=letter.sink,
        )  # fmt: skip
        DeadLetter.objects.filter(pk=letter.pk).update(failure_group=found.id)
        row = _row(letter.at, letter.task_id, {}, found, letters=1, kind=letter.failure)
        place = {"kind": "dead_lettered", "partition": letter.partition, "offset": letter.offset}
        project_failures(_described(run.id), [row | place])


def _of_task(stderr: Any, code: int | None) -> Fingerprint:
    return of_task("main", "exit", exit_code=code, detail="", stderr=bytes(stderr or b""))


def _data(rows: Sequence[Row]) -> dict[str, Any]:
    group = rows[0]["failure_group"]["group"] if rows else ""
    return {"failure": "exit", "detail": "exit code 3", "group": group}


def _row(
    at: datetime,
    task_id: str | None,
    labels: dict[str, str],
    found: Fingerprint,
    *,
    letters: int = 0,
    kind: str = "exit",
) -> Row:
    grouped = Grouped(
        group=found.id, kind=kind, title=found.title, failures=1, letters=letters, labels=labels
    )
    place = {"topic": TOPIC, "partition": 7, "offset": 48_000, "task_id": task_id, "attempt": 1}
    return {"ts": at, "kind": "task_failed", **place, "failure_group": asdict(grouped)}


def _described(run: UUID) -> RunDescription:
    return RunDescription(
        id=run, cluster="main", worker="", host="", pid=0, version="", isolation="", slots=1,
        config_hash="", config={}, environment={}, started_at=0.0,
    )  # fmt: skip
