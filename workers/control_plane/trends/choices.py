"""What a reader of trends can choose from: hosts, sinks, labels, and how to split."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from django.conf import settings
from django.utils import timezone

from recorder.models import Run, RunState
from recorder.rollups.reading import LABEL
from workers.control_plane.queries import CONTROL_CLUSTER, LIVE_STATES
from workers.control_plane.trends.view import SPLITS, View

MOST = 100
RECENT = timedelta(days=90)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """Offers of each filter, at most a hundred; others can be typed."""

    hosts: list[str]
    sinks: list[str]
    labels: list[str]
    splits: list[tuple[str, str]]


def choices(view: View | None) -> Choices:
    """Return what can be chosen of the cluster in view."""
    cluster = view.scope.cluster if view is not None else ""
    runs = Run.objects.exclude(cluster=CONTROL_CLUSTER)
    runs = runs.filter(cluster=cluster) if cluster else runs
    hosts = runs.filter(started_at__gt=timezone.now() - RECENT).values_list("host", flat=True)
    beats = RunState.objects.filter(run__in=runs, state__in=LIVE_STATES)
    sinks = {sink.name for each in beats.only("sinks")[:MOST] for sink in each.sinks}
    names = _labels(cluster)
    return Choices(
        hosts=sorted(hosts.distinct()[:MOST]),
        sinks=sorted(sinks)[:MOST],
        labels=names,
        splits=[*SPLITS.items(), *((f"{LABEL}{name}", f"label {name}") for name in names)],
    )


def _labels(cluster: str) -> list[str]:
    """Return the names of the labels that the rollups of a cluster tell apart (empty: of all)."""
    known = settings.DRAKKAR.clusters if settings.DRAKKAR else {}
    return sorted(
        {
            name
            for each, config in known.items()
            if cluster in ("", each)
            for name in config.recorder.rollup_labels
        }
    )
