"""Lag of each cluster, as every page tells it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from domain.unknown import total
from recorder.models import RunState
from workers.control_plane.queries import is_live, latest, partitions_of


def cluster_lags(
    rows: Iterable[RunState], unowned: Iterable[Mapping[str, Any]], controller: RunState | None
) -> dict[str, int | None]:
    """Return the lag by cluster: what its workers tell of all its partitions, or what the
    controller measured where none lives. None: unknown, for one where a partition has no owner
    too."""
    names = list(latest(rows).values())
    partitions = partitions_of(filter(is_live, names))
    living = {beat.run.cluster for beat in names if is_live(beat)}
    open_ = {row["cluster"] for row in unowned}
    measured = controller.counters.lags if controller else {}
    found: dict[str, int | None] = {}
    for cluster in {beat.run.cluster for beat in names}:
        told = total(row.beat.lag for row in partitions if row.cluster == cluster)
        found[cluster] = measured.get(cluster) if cluster not in living else told
        if cluster in living & open_:
            found[cluster] = None
    return found
