"""Watch over what was sent again: how each message ended at its new place."""

from __future__ import annotations

from datetime import timedelta

from django.db.models import F, QuerySet
from django.db.models.functions import Now

from recorder.reading import runs_of_cluster
from workers.control_plane.rerun.outcomes import outcomes
from workers.models import RerunMessage, RerunMessageState

MOST_LOOKED_AT = 2000
LONGEST = timedelta(days=7)
"""A message that has not ended for so long is not looked at any more."""


def note_outcomes() -> int:
    """Note how messages ended whose rerun had no end yet, those looked at longest ago first.

    Returns how many ended. Raises DatabaseError.
    """
    rows = list(_open().order_by(F("looked_at").asc(nulls_first=True), "id")[:MOST_LOOKED_AT])
    groups: dict[tuple[str, str], list[RerunMessage]] = {}
    for row in rows:
        groups.setdefault((row.cluster, row.target_topic), []).append(row)
    ended = []
    for (cluster, topic), group in groups.items():
        told = outcomes(topic, map(_target, group), runs_of_cluster(cluster))
        for row in group:
            outcome = told.get(_target(row))
            if outcome is not None and outcome.has_ended:
                row.fate, row.has_failed = outcome.fate[:16], outcome.has_failed
                ended.append(row)
    RerunMessage.objects.bulk_update(ended, ["fate", "has_failed"], batch_size=500)
    looked_at = [row.pk for row in rows]
    RerunMessage.objects.filter(pk__in=looked_at, has_failed=None).update(looked_at=Now())
    return len(ended)


def _open() -> QuerySet[RerunMessage]:
    return RerunMessage.objects.filter(
        state=RerunMessageState.SENT, has_failed=None, sent_at__gt=Now() - LONGEST
    )


def _target(row: RerunMessage) -> tuple[int, int]:
    return row.target_partition or 0, row.target_offset or 0
