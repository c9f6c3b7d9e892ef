"""What is wrong now: each broken invariant with its cause and what to do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from recorder.models import RunState
from workers.queries import LATE_SECONDS, age_seconds, is_live

SPOOL_LIMIT_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong; ``status`` is its colour and glyph."""

    status: str
    title: str
    detail: str
    age_seconds: float | None = None


def findings(rows: Iterable[RunState]) -> list[Finding]:
    """Everything wrong of the latest run of each name, worst first."""
    latest = {(beat.run.cluster, beat.run.worker): beat for beat in rows}
    found = [each for beat in latest.values() for each in _of_run(beat)]
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
        yield Finding(status="running", title=title, detail=detail, age_seconds=age)
    if beat.state != "ready":
        detail = (
            f"Waits for {beat.waiting_for}" if beat.waiting_for else "Not working yet or no more"
        )
        yield Finding(status="waiting", title=f"{name}: {beat.state}", detail=detail)
    yield from _of_partitions(beat)
    yield from _of_sinks(beat)
    yield from _of_recorder(name, beat)


def _of_partitions(beat: RunState) -> Iterator[Finding]:
    for row in beat.partitions:
        for cause, detail in (row.get("parked") or {}).items():
            title = f"Partition {row['partition']} of {row['topic']}: parked, {cause}"
            yield Finding(status="failed", title=title, detail=str(detail))


def _of_sinks(beat: RunState) -> Iterator[Finding]:
    for sink in beat.sinks:
        if sink.get("breaker") not in ("open", "half_open", "half-open"):
            continue
        probe = sink.get("next_probe_seconds")
        detail = f"{sink.get('last_error') or 'It failed too often in a row'}."
        detail += f" Next probe in {probe:.0f} s." if probe is not None else ""
        title = f"Sink {sink['name']} ({sink.get('kind')}) on {beat.run.worker}: breaker open"
        yield Finding(status="failed", title=title, detail=detail)


def _of_recorder(name: str, beat: RunState) -> Iterator[Finding]:
    spooled, shed = (beat.recorder.get(key) or 0 for key in ("spooled_bytes", "shed"))
    if spooled > SPOOL_LIMIT_BYTES:
        detail = f"{spooled:,} bytes of history wait on its disk: Postgres is slow or away."
        yield Finding(status="retrying", title=f"{name}: history is spooled", detail=detail)
    if shed:
        detail = f"{shed:,} events could not be kept; the work itself is not touched."
        yield Finding(status="retrying", title=f"{name}: history has gaps", detail=detail)
