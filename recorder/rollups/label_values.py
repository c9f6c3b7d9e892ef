"""Values of labels that a cluster counts by themselves, read from what its runs counted."""

from __future__ import annotations

from collections.abc import Sequence

from django.db.models import Min

from recorder.models import Rollup, RollupSource
from recorder.rollups.sums import DAY, MOST_VALUES, OTHER, Subject

DAYS = 2
"""A value that was not met on these days, today the last, leaves its place to another one."""


def chosen_values(cluster: str, labels: Sequence[str], wall: float) -> dict[str, list[str]]:
    """Return up to ``MOST_VALUES`` values of each label, in the order in which they were first
    stored, which is the same for all who ask. ``wall`` is in UTC epoch seconds. Raises
    DatabaseError."""
    sources = RollupSource.objects.filter(cluster=cluster).values("id")
    since = (int(wall // DAY) - DAYS + 1) * DAY
    of_cluster = Rollup.objects.filter(
        step=DAY, subject=Subject.LABEL.value, start__gte=since, source__in=sources
    )
    return {
        label: list(
            of_cluster.filter(label=label)
            .exclude(value=OTHER)
            .values("value")
            .annotate(first=Min("id"))
            .order_by("first")
            .values_list("value", flat=True)[:MOST_VALUES]
        )
        for label in labels
    }
