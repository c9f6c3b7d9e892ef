"""The API's part about workers."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest
from ninja import Router, Schema

from workers.control_plane.queries import beats, dashboard

router = Router(tags=["workers"])


class Fates(Schema):
    """Messages by fate, summed over runs."""

    delivered: int | None
    filtered: int | None
    skipped: int | None
    dead_lettered: int | None


class WorkerFigures(Schema):
    """A worker's name with its figures over all its runs."""

    cluster: str
    name: str
    state: str
    partition_count: int
    consumed: int | None
    tasks_completed: int | None
    tasks_failed: int | None
    fates: Fates


class PartitionFigures(Schema):
    """A partition as its owner last said it."""

    cluster: str
    topic: str
    partition: int
    owner: str | None
    queue: int | None
    lag: int | None
    state: str | None


class Pool(Schema):
    """Slots of all live workers."""

    slots: int | None
    busy: int | None


class Dashboard(Schema):
    """The dashboard's figures; unknown is null."""

    workers: list[WorkerFigures]
    partitions: list[PartitionFigures]
    pool: Pool
    lag: int | None


@router.get("/dashboard", response=Dashboard, summary="Workers, partitions, pool and lag")
def get_dashboard(request: HttpRequest, cluster: str = "", worker: str = "") -> dict[str, Any]:
    """Figures of a cluster and worker (empty: all); counters sum over all runs of a name."""
    return dashboard(beats(cluster, worker))
