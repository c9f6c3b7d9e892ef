"""What is wrong now: each broken invariant with its cause and what to do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from django.urls import reverse

from recorder.models import RunState
from workers.queries import LATE_SECONDS, age_seconds, is_live, latest

BLOCKED_SECONDS = 60.0
SPOOL_LIMIT_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong; ``status`` is its colour and glyph."""

    status: str
    title: str
    detail: str
    age_seconds: float | None = None
    url: str = ""
    action: str = ""


def findings(rows: Iterable[RunState], controller_age_seconds: float | None) -> list[Finding]:
    """Everything wrong of the latest run of each name and of the controller, worst first."""
    names = latest(rows)
    found = [each for beat in names.values() for each in _of_run(beat)]
    if any(is_live(beat) for beat in names.values()):
        found += _of_controller(controller_age_seconds)
    return sorted(found, key=lambda each: each.status != "failed")


def _of_run(beat: RunState) -> Iterator[Finding]:
    name, age = f"Worker {beat.run.cluster}/{beat.run.worker}", age_seconds(beat)
    if beat.state == "lost":
        detail = "Its heartbeat fell silent; its partitions go to the others. Start it again."
        yield Finding(status="failed", title=f"{name}: lost", detail=detail, age_seconds=age)
    if not is_live(beat):
        return
    if age > LATE_SECONDS:
        detail = "Its figures are stale; its partitions stay its own until Kafka says otherwise."
        title = f"{name}: heartbeat late"
        yield Finding(
            status="running",
            title=title,
            detail=detail,
            age_seconds=age,
            url=_live_url(beat),
            action="See it live",
        )
    if beat.state != "ready":
        detail = (
            f"Waits for {beat.waiting_for}" if beat.waiting_for else "Not working yet or no more"
        )
        yield Finding(status="waiting", title=f"{name}: {beat.state}", detail=detail)
    yield from _of_partitions(beat)
    yield from _of_sinks(beat)
    yield from _of_recorder(name, beat)


def _live_url(beat: RunState) -> str:
    query = urlencode({"cluster": beat.run.cluster, "worker": beat.run.worker})
    return f"{reverse('live')}?{query}"


def _of_controller(age: float | None) -> Iterator[Finding]:
    if age is not None and age <= LATE_SECONDS:
        return
    detail = "Exports, replays and retention wait for it. Start one: manage.py runcontroller"
    yield Finding(status="failed", title="Controller: no answer", detail=detail, age_seconds=age)


def _of_partitions(beat: RunState) -> Iterator[Finding]:
    for row in beat.partitions:
        for cause, detail in (row.get("parked") or {}).items():
            title = f"Partition {row['partition']} of {row['topic']}: parked, {cause}"
            url = _partition_url(beat, row)
            action = "Open partition"
            yield Finding(status="failed", title=title, detail=str(detail), url=url, action=action)
    yield from _of_blockers(beat)


def _of_blockers(beat: RunState) -> Iterator[Finding]:
    """One line a worker: its oldest blocker, and how many more there are."""
    late = age_seconds(beat)
    blocked = [
        (row["blocker"]["age_seconds"] + late, row)
        for row in beat.partitions
        if (row.get("blocker") or {}).get("age_seconds") is not None
    ]
    old = [each for each in blocked if each[0] >= BLOCKED_SECONDS]
    if not old:
        return
    seconds, row = max(old, key=lambda each: each[0])
    what = row["blocker"].get("task_id") or f"{row['partition']}:{row['blocker']['offset']}"
    more = f"; {len(old) - 1} more of its partitions are blocked too" if len(old) > 1 else ""
    yield Finding(
        status="running",
        title=f"Partition {row['partition']} of {row['topic']}: commit blocked by {what}",
        detail=f"On {beat.run.worker}, {row.get('pending')} messages have no fate yet{more}.",
        age_seconds=seconds,
        url=_partition_url(beat, row),
        action="Open partition",
    )


def _partition_url(beat: RunState, row: Mapping[str, Any]) -> str:
    place = {"cluster": beat.run.cluster, "topic": row["topic"], "number": row["partition"]}
    return reverse("partition", kwargs=place)


def _of_sinks(beat: RunState) -> Iterator[Finding]:
    for sink in beat.sinks:
        if sink.get("breaker") not in ("open", "half_open", "half-open"):
            continue
        probe = sink.get("next_probe_seconds")
        detail = f"{sink.get('last_error') or 'It failed too often in a row'}."
        detail += f" Next probe in {probe:.0f} s." if probe is not None else ""
        title = f"Sink {sink['name']} ({sink.get('kind')}) on {beat.run.worker}: breaker open"
        yield Finding(
            status="failed", title=title, detail=detail, url=reverse("sinks"), action="Open sinks"
        )


def _of_recorder(name: str, beat: RunState) -> Iterator[Finding]:
    spooled, shed = (beat.recorder.get(key) or 0 for key in ("spooled_bytes", "shed"))
    if spooled > SPOOL_LIMIT_BYTES:
        detail = f"{spooled:,} bytes of history wait on its disk: Postgres is slow or away."
        yield Finding(status="retrying", title=f"{name}: history is spooled", detail=detail)
    if shed:
        detail = f"{shed:,} events could not be kept; the work itself is not touched."
        yield Finding(status="retrying", title=f"{name}: history has gaps", detail=detail)
