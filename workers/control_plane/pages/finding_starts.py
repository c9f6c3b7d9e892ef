"""Since when something is wrong: the latest event that began it."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from uuid import UUID

from domain.beat import PartitionBeat, PartitionState
from recorder.models import Event, RunState
from workers.control_plane.queries import is_live

MOST_EVENTS = 500
BROKEN = ("open", "half_open", "half-open")
Start = tuple[UUID, str, str]
"""A run, a kind of event, and what it was told of."""


def place(row: PartitionBeat) -> str:
    """Return what a stall is told of; a parking's is followed by its cause."""
    return f"{row.topic}/{row.partition}"


def starts(rows: Iterable[RunState]) -> dict[Start, datetime]:
    """When each parking, stall and open breaker of the live runs began, and when one last shed
    events, where it is recorded."""
    live = [beat for beat in rows if is_live(beat)]
    odd = {beat.run_id: [row.partition for row in beat.partitions if _is_odd(row)] for beat in live}
    numbers = {number for each in odd.values() for number in each}
    broken = [b for b in live if any(sink.breaker in BROKEN for sink in b.sinks)]
    found: dict[Start, datetime] = {}
    if numbers:
        runs = [run for run, each in odd.items() if each]
        events = Event.objects.filter(run__in=runs, partition__in=numbers)
        told = events.filter(kind__in=("parked", "stalled")).order_by("-ts", "-id")
        columns = ("run", "kind", "topic", "partition", "data__cause", "ts")
        for run, kind, topic, number, cause, at in told.values_list(*columns)[:MOST_EVENTS]:
            what = f"{topic}/{number} {cause}" if kind == "parked" else f"{topic}/{number}"
            found.setdefault((run, kind, what), at)
    if broken:
        events = Event.objects.filter(run__in=[b.run_id for b in broken], kind="breaker_opened")
        latest_first = events.order_by("-ts", "-id").values_list("run", "sink", "ts")
        for run, sink, at in latest_first[:MOST_EVENTS]:
            found.setdefault((run, "breaker_opened", str(sink)), at)
    if shed := [b.run_id for b in live if b.recorder.shed]:
        events = Event.objects.filter(run__in=shed, kind="recorder_shed").order_by("-ts", "-id")
        for run, at in events.values_list("run", "ts")[:MOST_EVENTS]:
            found.setdefault((run, "recorder_shed", ""), at)
    return found


def _is_odd(row: PartitionBeat) -> bool:
    return bool(row.parked) or row.state == PartitionState.STALLED
