"""The API's part about versions: what was changed when and by whom, and how tasks compare."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Literal
from uuid import UUID

from django.http import HttpRequest
from django.utils import timezone
from ninja import Field, Query, Router, Schema
from ninja.errors import HttpError

from recorder.timestamps import moment_of
from workers.control_plane.deployments import ComparedVersion, comparison, deployments

router = Router(tags=["workers"])


class ChangeOut(Schema):
    """A key with its values before and after; of the configuration they are JSON. Null: it was, or
    is, not there (of a version: unknown)."""

    key: str
    old: str | None
    new: str | None


class DeploymentOut(Schema):
    """What runs of a cluster were started with otherwise than the runs before them; the first of
    them started at ``at``. ``deployed_by`` is empty where unknown."""

    cluster: str
    at: datetime
    until: datetime
    deployed_by: str
    versions: list[ChangeOut]
    config: list[ChangeOut]
    workers: list[str]
    runs: list[UUID]


class DeploymentsOut(Schema):
    """Changes, newest first."""

    deployments: list[DeploymentOut]


class AskedDeployments(Schema):
    """Of which cluster (empty: all), and since when: a time, or an age like ``7d``."""

    cluster: str = Field("", max_length=63)
    since: str = Field("30d", max_length=40)


class VersionOut(Schema):
    """Attempts of tasks of one version; null is unknown."""

    version: str
    first_started: datetime | None
    last_started: datetime | None
    tasks: int
    failures: int
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    queue_p95_ms: float | None
    cpu_seconds: float | None
    peak_rss_bytes: int | None


class ComparisonOut(Schema):
    """Versions, newest first, and the newest one judged against the one before it; ``verdict`` is
    null where there are no two."""

    cluster: str
    kind: str
    versions: list[VersionOut]
    verdict: str | None


class AskedComparison(Schema):
    """Of which cluster and worker (empty: all of the cluster), by which version, since when."""

    cluster: str = Field(min_length=1, max_length=63)
    worker: str = Field("", max_length=255)
    kind: Literal["handler", "program"] = "handler"
    since: str = Field("7d", max_length=40)


@router.get("/deployments", response=DeploymentsOut, summary="What was changed, when, by whom")
def get_deployments(request: HttpRequest, asked: Query[AskedDeployments]) -> dict[str, Any]:
    """Runs that changed alike within an hour are one; at most 50."""
    found = deployments(asked.cluster, _since(asked.since))
    return {
        "deployments": [
            {
                name: getattr(each, name)
                for name in ("cluster", "at", "until", "deployed_by", "workers", "runs")
            }
            | {
                "versions": [change.document() for change in each.versions],
                "config": [change.document() for change in each.config],
            }
            for each in found
        ]
    }


@router.get("/versions", response=ComparisonOut, summary="Tasks of each version, side by side")
def get_versions(request: HttpRequest, asked: Query[AskedComparison]) -> dict[str, Any]:
    """By what ended since then."""
    since = _since(asked.since)
    found = comparison(asked.cluster, asked.kind, since, timezone.now(), asked.worker)
    judged = found.verdict
    return {
        "cluster": found.cluster,
        "kind": found.kind,
        "versions": [_version(each) for each in found.versions],
        "verdict": None if judged is None else judged.words,
    }


def _version(each: ComparedVersion) -> dict[str, Any]:
    total = each.total
    of_total = ("p50_ms", "p95_ms", "p99_ms", "queue_p95_ms", "cpu_seconds", "peak_rss_bytes")
    return {
        "version": each.version,
        "first_started": each.first_started,
        "last_started": each.last_started,
        "tasks": total.count,
        "failures": total.failures,
        **{name: getattr(total, name) for name in of_total},
    }


def _since(text: str) -> datetime:
    """Return the moment, at most 400 days ago. Raises HttpError."""
    now = timezone.now()
    found = moment_of(text, now)
    if found is None or found >= now:
        raise HttpError(422, "since: expected an age like 7d, or a past time in ISO 8601")
    return max(found, now - timedelta(days=400))
