"""Operations of the API on what the fleet is made of: workers, partitions, sinks, metrics."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any
from uuid import UUID

from django.http import HttpRequest, HttpResponse
from ninja import Field, Query, Router, Schema
from ninja.responses import NinjaJSONEncoder

from recorder.models import RunState
from workers.control_plane.pages.sinks import sink_rows
from workers.control_plane.queries import (
    age_seconds,
    beats,
    dashboard,
    is_live,
    latest,
    live_metrics,
    partitions_of,
)
from workers.control_plane.unowned_partitions import unowned_partitions

router = Router(tags=["workers"])
Row = dict[str, Any]


class Fates(Schema):
    """Messages by fate, summed over runs."""

    delivered: int | None
    filtered: int | None
    skipped: int | None
    dead_lettered: int | None
    deferred: int | None


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
    """A partition as its owner last said it. ``owner`` is null where no live worker holds it:
    ``last_owner`` held it until ``unowned_since``, and all figures are unknown. ``held`` counts
    deferred messages that are not due; null: it is none of the retry topic. ``resting`` counts
    pending messages for which nothing is done. ``lag_paces`` are the quartiles of the change of
    its lag in messages a second over the last five minutes, the lower first. ``is_paused``: by an
    operator, this partition alone; only then, and with no other messages pending, can its commit be
    moved."""

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


class Asked(Schema):
    """Of which cluster and worker; empty: of all."""

    cluster: str = Field("", max_length=63)
    worker: str = Field("", max_length=255)


class AskedMetrics(Asked):
    """And which family of metrics, by its whole name."""

    name: str = Field("", max_length=255)


class WorkerPool(Schema):
    """Slots of one worker, busy ones, and tasks that wait for one."""

    slots: int | None = None
    busy: int | None = None
    waiting: int | None = None


class WorkerOut(Schema):
    """A worker's name: its latest run, and counters over all its runs. ``pool`` is null where it
    does not live; ``rss_bytes`` is what it held at its last beat."""

    cluster: str
    name: str
    run: UUID
    state: str
    waiting_for: str
    is_live: bool
    beat_at: datetime
    beat_age_seconds: float
    started_at: datetime
    ended_at: datetime | None
    host: str
    pid: int
    version: str
    isolation: str
    cgroups: str
    config_hash: str
    rss_bytes: int | None
    partition_count: int
    pool: WorkerPool | None
    consumed: int | None
    tasks_completed: int | None
    tasks_failed: int | None
    tasks_retried: int | None
    dead_letters: int | None
    fates: Fates


class WorkersOut(Schema):
    """Every name that ever ran, by cluster and name."""

    workers: list[WorkerOut]


class PartitionOut(PartitionFigures):
    """A partition as its owner last said it. ``owner`` is null where no live worker holds it:
    ``last_owner`` held it until ``unowned_since``, and all figures are unknown. ``held`` counts
    deferred messages that are not due; null: it is none of the retry topic. ``resting`` counts
    pending messages for which nothing is done. ``lag_paces`` are the quartiles of the change of
    its lag in messages a second over the last five minutes, the lower first. ``is_paused``: by an
    operator, this partition alone; only then, and with no other messages pending, can its commit be
    moved."""

    epoch: int | None = None
    is_paused: bool | None = None
    pending: int | None = None
    held: int | None = None
    resting: int | None = None
    lag_paces: tuple[float, float] | None = None
    position: int | None = None
    committed: int | None = None
    high_watermark: int | None = None
    watermark: int | None = None
    blocker: dict[str, Any] | None = None
    parked: dict[str, str] | None = None
    last_owner: str | None = None
    unowned_since: datetime | None = None


class PartitionsOut(Schema):
    """Every known partition, by cluster, topic and number."""

    partitions: list[PartitionOut]


class SinkOfWorker(Schema):
    """A sink as one live worker sees it, since its run began."""

    worker: str
    breaker: str | None = None
    is_paused: bool | None = None
    waiting_for: str | None = None
    delivered: int | None = None
    errors: int | None = None
    retries: int | None = None
    queue_entries: int | None = None
    queue_bytes: int | None = None


class SinkOut(Schema):
    """A sink of a cluster: counters over all runs, queues and percentiles of what is known."""

    cluster: str
    name: str
    kind: str | None
    delivered: int | None
    errors: int | None
    errors_by_class: dict[str, int]
    retries: int | None
    queue_entries: int | None
    queue_bytes: int | None
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    last_delivery_at: datetime | None
    last_error: str | None
    last_error_class: str | None
    last_error_at: datetime | None
    workers: list[SinkOfWorker]


class SinksOut(Schema):
    """Every sink that ever delivered or is there, by cluster and name."""

    sinks: list[SinkOut]


class SampleOut(Schema):
    """One value; what JSON cannot say (``inf``, ``nan``) is text."""

    name: str
    labels: dict[str, str]
    value: float | str


class FamilyOut(Schema):
    """One metric with its samples, without the labels ``cluster`` and ``worker``."""

    name: str
    type: str
    help: str
    samples: list[SampleOut]


class RunMetrics(Schema):
    """The metrics of a live run at its last beat; ``families`` is null where none are known,
    ``left_out`` counts the samples that were too many to keep."""

    cluster: str
    worker: str
    state: str
    beat_at: datetime
    beat_age_seconds: float
    families: list[FamilyOut] | None
    left_out: int | None


class MetricsOut(Schema):
    """All live runs, the controller's too, by cluster and name."""

    runs: list[RunMetrics]


# Clients are generated from the schema: an id stays what it was.
@router.get(
    "/dashboard",
    response=Dashboard,
    summary="Workers, partitions, pool and lag",
    operation_id="workers_control_plane_api_get_dashboard",
)
def get_dashboard(request: HttpRequest, cluster: str = "", worker: str = "") -> Row:
    """Figures of a cluster and worker (empty: all); counters sum over all runs of a name."""
    return dashboard(beats(cluster, worker))


@router.get("/workers", response=WorkersOut, summary="Each worker's latest run and its counters")
def get_workers(request: HttpRequest, asked: Query[Asked]) -> Row:
    """Live or not; counters sum over all runs of a name."""
    found = beats(asked.cluster, asked.worker)
    last = latest(found)
    rows = dashboard(found)["workers"]
    return {"workers": [_worker(row, last[row["cluster"], row["name"]]) for row in rows]}


@router.get("/partitions", response=PartitionsOut, summary="Partitions, with and without an owner")
def get_partitions(request: HttpRequest, asked: Query[Asked]) -> Row:
    """With ``worker``, those that it holds or was the last to hold."""
    found = beats(asked.cluster, asked.worker)
    owned = partitions_of(beat for beat in found if is_live(beat))
    every = [row.document() for row in owned] + [_unowned(row) for row in unowned_partitions(found)]
    every.sort(key=lambda row: (row["cluster"], row["topic"], row["partition"]))
    return {"partitions": every}


@router.get("/sinks", response=SinksOut, summary="Sinks over all workers, and at each live one")
def get_sinks(request: HttpRequest, asked: Query[Asked]) -> Row:
    """Counters sum over all runs; queues are those of the live workers."""
    return {"sinks": [_sink(row) for row in sink_rows(beats(asked.cluster, asked.worker))]}


@router.get("/metrics", response=MetricsOut, summary="What each live run measures")
def get_metrics(request: HttpRequest, asked: Query[AskedMetrics]) -> HttpResponse:
    """As of each run's last beat; with ``name``, this family only."""
    runs = live_metrics(asked.cluster, asked.worker)
    document = {"runs": [_metrics(beat, asked.name) for beat in runs]}
    # Written here: the schema would make objects of thousands of samples, for five times the work.
    text = json.dumps(document, cls=NinjaJSONEncoder, allow_nan=False)
    return HttpResponse(text, content_type="application/json; charset=utf-8")


def _worker(row: Row, beat: RunState) -> Row:
    of_run = ("started_at", "host", "pid", "version", "isolation", "cgroups", "config_hash")
    of_beat = ("waiting_for", "beat_at", "ended_at", "rss_bytes")
    return {
        **row,
        **{name: getattr(beat.run, name) for name in of_run},
        **{name: getattr(beat, name) for name in of_beat},
        "run": beat.run_id,
        "is_live": is_live(beat),
        "beat_age_seconds": age_seconds(beat),
    }


def _unowned(row: Row) -> Row:
    place = {name: row[name] for name in ("cluster", "topic", "partition")}
    unknown = dict.fromkeys(("owner", "queue", "lag", "state"))
    return {**place, **unknown, "last_owner": row["owner"], "unowned_since": row["since"]}


def _sink(row: Row) -> Row:
    return {
        **row,
        **{f"{name}_ms": row[name] for name in ("p50", "p95", "p99")},
        "last_delivery_at": row["last_delivery"],
        "last_error_at": row["last_error_time"],
    }


def _metrics(beat: RunState, name: str) -> Row:
    kept = beat.metrics or {}
    families = kept.get("families")
    return {
        "cluster": beat.run.cluster,
        "worker": beat.run.worker,
        "state": beat.state,
        "beat_at": beat.beat_at,
        "beat_age_seconds": age_seconds(beat),
        "families": None
        if families is None
        else [_family(each) for each in families if name in ("", each["name"])],
        "left_out": kept.get("left_out"),
    }


def _family(family: Row) -> Row:
    names = ("name", "labels", "value")
    return {
        **family,
        "samples": [dict(zip(names, each, strict=True)) for each in family["samples"]],
    }
