"""Effect of an action, in words and numbers, before it is asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from domain.beat import PartitionBeat, SinkBeat
from domain.parking import Handling, ParkingCause
from domain.unknown import total
from recorder.models import RunState
from workers.control import Action
from workers.control_plane.queries import age_seconds, is_live

Figures = list[tuple[str, int | None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """Text and figures shown before an action; ``age`` is that of the figures in seconds."""

    title: str
    meaning: str
    is_destructive: bool
    beat: RunState | None
    age: float | None
    figures: Figures
    causes: Mapping[str, str]
    row: PartitionBeat | None = None
    """The partition that it is on, if it is on one."""


def effect(action: Action, arguments: Mapping[str, Any], beat: RunState | None) -> Effect:
    """Return the effect on a worker, as it last said it was; None: no live worker is there."""
    live = beat if beat is not None and is_live(beat) else None
    row = _partition(arguments, live) if live is not None else None
    causes = row.parked if row is not None else {}
    asking: list[Handling] = []
    if action is Action.UNPARK_PARTITION:
        known = [cause.handling for cause in ParkingCause if cause in causes]
        asking = [handling for handling in known if handling.choice]
    figures = _figures(arguments, live) if live is not None else []
    if any(handling.choice == "start" for handling in asking):
        figures.append(("messages at most that latest passes over", row.lag if row else None))
    return Effect(
        title=action.spec.title,
        meaning=" ".join([action.spec.meaning, *(handling.warning for handling in asking)]),
        is_destructive=action.spec.is_destructive or bool(asking),
        beat=live,
        age=age_seconds(live) if live is not None else None,
        figures=figures,
        causes=causes,
        row=row,
    )


def _figures(arguments: Mapping[str, Any], beat: RunState) -> Figures:
    if "partition" in arguments:
        return _of_partition(_partition(arguments, beat), beat)
    if "sink" in arguments:
        return _of_sink(arguments["sink"], beat)
    if "task_id" in arguments:
        return _of_task(arguments["task_id"], beat)
    return _of_worker(beat)


def _of_partition(row: PartitionBeat | None, beat: RunState) -> Figures:
    place = row.place if row else None
    known = beat.pool.running
    running = [each for each in known or () if (each.topic, each.partition) == place]
    return [
        ("tasks running", None if known is None else len(running)),
        ("messages without a fate", row.pending if row else None),
        ("tasks that wait to run", row.queue if row else None),
        ("messages of lag", row.lag if row else None),
    ]


def _of_sink(name: str, beat: RunState) -> Figures:
    sink = next((each for each in beat.sinks if each.name == name), SinkBeat(name=name))
    return [
        ("payloads that wait for it", sink.queue_entries),
        ("delivered so far", sink.delivered),
        ("errors so far", sink.errors),
    ]


def _of_task(task_id: str, beat: RunState) -> Figures:
    known = beat.pool.running
    is_running = any(each.task_id == task_id for each in known or ())
    return [("process of it running", None if known is None else int(is_running))]


def _of_worker(beat: RunState) -> Figures:
    rows = beat.partitions
    return [
        ("partitions", len(rows)),
        ("tasks running", beat.pool.busy),
        ("tasks that wait for a slot", beat.pool.waiting),
        ("messages without a fate", total(row.pending for row in rows) if rows else 0),
        ("messages of lag", total(row.lag for row in rows) if rows else 0),
    ]


def _partition(arguments: Mapping[str, Any], beat: RunState) -> PartitionBeat | None:
    asked = arguments.get("topic"), arguments.get("partition")
    return next((row for row in beat.partitions if row.place == asked), None)
