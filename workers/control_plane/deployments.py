"""Deployments: what runs were started with otherwise, and how the tasks of versions compare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db.models import Q

from domain.changes import Change
from domain.version_verdict import Verdict, VersionFigures, verdict
from recorder.models import Run
from recorder.rollups.reading import Dimension, Scope, Total, totals
from recorder.run_changes import RunChanges
from workers.control_plane.queries import CONTROL_CLUSTER

MOST_RUNS = 500
"""Runs with changes that are looked at, the newest."""
MOST_CHANGES = 50
SAME_DEPLOYMENT_SECONDS = 3600.0
"""Runs of a cluster that changed alike within so long are one deployment."""
HAS_CHANGES = (Q(config_changes__isnull=False) & ~Q(config_changes=[])) | (
    Q(version_changes__isnull=False) & ~Q(version_changes=[])
)
"""Runs that were started with something otherwise than the run before."""
KINDS = {
    "handler": (Dimension.HANDLER_VERSION, "handler_version"),
    "program": (Dimension.PROGRAM_VERSION, "program_version"),
}
"""Versions that tasks are compared by: the dimension of the rollups, and the column of a run."""


@dataclass(slots=True, kw_only=True)
class Deployment:
    """Changes with which one or several runs of a cluster started; ``deployed_by`` is empty where
    unknown."""

    cluster: str
    at: datetime
    until: datetime
    deployed_by: str
    versions: Sequence[Change]
    config: Sequence[Change]
    workers: list[str] = field(default_factory=list)
    runs: list[UUID] = field(default_factory=list)

    @property
    def changes(self) -> list[Change]:
        """Versions first, each under the name of what has it; then the keys."""
        return [*(Change(f"version of {c.key}", c.old, c.new) for c in self.versions), *self.config]


def deployments(cluster: str = "", since: datetime | None = None) -> list[Deployment]:
    """Return what changed, newest first; of all clusters where none is named."""
    runs = Run.objects.filter(HAS_CHANGES).exclude(cluster=CONTROL_CLUSTER)
    if cluster:
        runs = runs.filter(cluster=cluster)
    if since is not None:
        runs = runs.filter(started_at__gte=since)
    found: list[Deployment] = []
    open_: dict[Any, Deployment] = {}
    for run in runs.defer("config", "environment").order_by("-started_at")[:MOST_RUNS]:
        changes = RunChanges.stored(run)
        versions, config = changes.versions or (), changes.config or ()
        key = run.cluster, run.deployed_by, versions, config
        known = open_.get(key)
        gap = None if known is None else (known.at - run.started_at).total_seconds()
        if known is None or gap is None or gap > SAME_DEPLOYMENT_SECONDS:
            known = open_[key] = Deployment(
                cluster=run.cluster,
                at=run.started_at,
                until=run.started_at,
                deployed_by=run.deployed_by,
                versions=versions,
                config=config,
            )
            found.append(known)
        known.at = run.started_at
        known.runs.append(run.id)
        if run.worker not in known.workers:
            known.workers.append(run.worker)
    return found[:MOST_CHANGES]


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedVersion:
    """Tasks of one version; ``first_started`` and ``last_started`` are of its runs, None where no
    run with it is known any more."""

    version: str
    total: Total
    first_started: datetime | None
    last_started: datetime | None

    @property
    def failure_rate(self) -> float | None:
        """Share of attempts that failed."""
        return self.total.failures / self.total.count if self.total.count else None

    @property
    def cpu_seconds_a_task(self) -> float | None:
        """Mean CPU time of an attempt; None: none was measured."""
        cpu = self.total.cpu_seconds
        return cpu / self.total.count if cpu is not None and self.total.count else None

    @property
    def figures(self) -> VersionFigures:
        """Figures that a verdict is made of."""
        return VersionFigures(
            version=self.version,
            count=self.total.count,
            failures=self.total.failures,
            p50_ms=self.total.p50_ms,
            p95_ms=self.total.p95_ms,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Versions of one kind in a cluster, newest first; ``verdict`` is of the first against the
    second, None where there are no two."""

    cluster: str
    kind: str
    versions: Sequence[ComparedVersion]

    @property
    def verdict(self) -> Verdict | None:
        """Judgement of the newest version."""
        if len(self.versions) < 2:
            return None
        return verdict(self.versions[1].figures, self.versions[0].figures)


def comparison(
    cluster: str, kind: str, since: datetime, until: datetime, worker: str = ""
) -> Comparison:
    """Compare the tasks of the versions of that kind (a key of ``KINDS``) by what ran between."""
    dimension, column = KINDS[kind]
    rows = totals(Scope(cluster=cluster, worker=worker), since, until, dimension)
    starts: dict[str, list[datetime]] = {}
    names = {row.value for row in rows}
    runs = Run.objects.filter(cluster=cluster, **{f"{column}__in": names})
    for version, at in runs.values_list(column, "started_at").order_by("started_at"):
        starts.setdefault(version, []).append(at)
    found = [
        ComparedVersion(
            version=row.value,
            total=row,
            first_started=min(starts.get(row.value, ()), default=None),
            last_started=max(starts.get(row.value, ()), default=None),
        )
        for row in rows
    ]
    oldest = since - timedelta(days=36_500)
    found.sort(key=lambda each: each.last_started or oldest, reverse=True)
    return Comparison(cluster=cluster, kind=kind, versions=found)
