"""Who paused a partition, worker or sink, since when and why: told by the requests that did it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

from django.db.models import DateTimeField, ExpressionWrapper
from django.db.models.functions import Now

from workers.control import Action
from workers.models import ControlRequest, ControlState

MOST_LOOKED_AT = 2000
"""Requests that are looked through; a pause before them is by nobody that is known."""

Place = TypeVar("Place", bound=tuple[Any, ...])


@dataclass(frozen=True, slots=True, kw_only=True)
class PausedBy:
    """Request that paused something; ``reason`` is empty where none was given."""

    request: UUID
    actor: str
    reason: str
    since: datetime
    age_seconds: float


def partitions_paused_by(
    places: Collection[tuple[str, str, int]],
) -> dict[tuple[str, str, int], PausedBy]:
    """Return by whom these partitions (cluster, topic, number) are paused, where that is known."""
    return _found(
        places,
        (Action.PAUSE_PARTITION, Action.RESUME_PARTITION),
        (Action.PAUSE_PARTITION,),
        lambda row: (row.cluster, row.arguments.get("topic"), row.arguments.get("partition")),
        arguments__partition__in=sorted({number for _, _, number in places}),
    )


def workers_paused_by(names: Collection[tuple[str, str]]) -> dict[tuple[str, str], PausedBy]:
    """Return by whom the intake of these workers (cluster, name) is paused, or they were drained,
    where that is known."""
    return _found(
        names,
        (Action.PAUSE_INTAKE, Action.DRAIN, Action.RESUME_INTAKE),
        (Action.PAUSE_INTAKE, Action.DRAIN),
        lambda row: (row.cluster, row.worker),
        worker__in={worker for _, worker in names},
    )


def sinks_paused_by(
    names: Collection[tuple[str, str, str]],
) -> dict[tuple[str, str, str], PausedBy]:
    """Return by whom these sinks (cluster, worker, name) are paused, where that is known."""
    return _found(
        names,
        (Action.PAUSE_SINK, Action.RESUME_SINK),
        (Action.PAUSE_SINK,),
        lambda row: (row.cluster, row.worker, row.arguments.get("sink")),
        worker__in={worker for _, worker, _ in names},
    )


def _found(
    wanted: Collection[Place],
    actions: Iterable[Action],
    pauses: Collection[Action],
    place_of: Callable[[ControlRequest], object],
    **narrowed: Any,
) -> dict[Place, PausedBy]:
    """Return the last of these requests that was done on each place, where it was a pause."""
    if not wanted:
        return {}
    rows = (
        ControlRequest.objects.filter(
            cluster__in={each[0] for each in wanted},
            action__in=list(actions),
            state=ControlState.DONE,
            **narrowed,
        )
        .annotate(now=ExpressionWrapper(Now(), output_field=DateTimeField()))
        .defer("result", "detail", "user")
        .order_by("-requested_at", "-id")
    )
    last: dict[object, ControlRequest] = {}
    for row in rows[:MOST_LOOKED_AT]:
        last.setdefault(place_of(row), row)
    return {
        place: _paused_by(last[place])
        for place in wanted
        if place in last and last[place].action in pauses
    }


def _paused_by(row: ControlRequest) -> PausedBy:
    since = row.ended_at or row.requested_at
    now: datetime = row.now  # type: ignore[attr-defined]
    return PausedBy(
        request=row.id,
        actor=row.actor,
        reason=row.reason,
        since=since,
        age_seconds=max(0.0, (now - since).total_seconds()),
    )
