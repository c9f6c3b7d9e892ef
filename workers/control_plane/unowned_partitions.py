"""Partitions that no worker holds: what a lost one held, and all where none lives."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from recorder.models import Event, RunState, RunStateName
from recorder.reading import of_runs
from workers.control_plane.queries import is_live, latest

MOST_PARTITIONS = 2000


def unowned_partitions(rows: Iterable[RunState]) -> list[dict[str, Any]]:
    """One row a partition, with its last ``owner`` and ``since`` when none holds it, by place."""
    found = list(rows)
    living = {beat.run.cluster for beat in found if is_live(beat)}
    return _left(found, living) + _deserted(found, living)


def _left(found: list[RunState], living: set[str]) -> list[dict[str, Any]]:
    """Return what lost workers held, until Kafka has given it to those that live."""
    held = {
        (beat.run.cluster, *row.place) for beat in found if is_live(beat) for row in beat.partitions
    }
    left = {
        key: beat
        for beat in latest(found).values()
        if beat.state == RunStateName.LOST and beat.run.cluster in living
        for row in beat.partitions
        if (key := (beat.run.cluster, *row.place)) not in held
    }
    return [
        {
            "cluster": cluster,
            "topic": topic,
            "partition": number,
            "owner": left[cluster, topic, number].run.worker,
            "since": left[cluster, topic, number].beat_at,
        }
        for cluster, topic, number in sorted(left)
    ]


def _deserted(found: list[RunState], living: set[str]) -> list[dict[str, Any]]:
    """Return those of clusters where no worker lives, as their last runs told."""
    gone = {beat.run_id: beat for beat in found if beat.run.cluster not in living}
    if not gone:
        return []
    began = min(beat.run.started_at for beat in gone.values())
    told = Event.objects.filter(of_runs(gone), kind="assigned", ts__gte=began)
    last = told.order_by("topic", "partition", "run", "-ts").distinct("topic", "partition", "run")
    columns = ("run", "topic", "partition", "ts")
    latest: dict[tuple[str, str, int], tuple[Any, RunState]] = {}
    for run, topic, number, at in last.values_list(*columns)[:MOST_PARTITIONS]:
        key = gone[run].run.cluster, topic, number
        if key not in latest or at > latest[key][0]:
            latest[key] = at, gone[run]
    ends = silence(gone.values())
    return [
        {
            "cluster": cluster,
            "topic": topic,
            "partition": number,
            "owner": latest[cluster, topic, number][1].run.worker,
            "since": ends[cluster],
        }
        for cluster, topic, number in sorted(latest)
    ]


def silence(rows: Iterable[RunState]) -> dict[str, Any]:
    """Return since when no worker of each cluster lives: its latest beat of all."""
    ends: dict[str, Any] = {}
    for beat in rows:
        known = ends.get(beat.run.cluster)
        ends[beat.run.cluster] = beat.beat_at if known is None else max(known, beat.beat_at)
    return ends
