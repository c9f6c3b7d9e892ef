"""Deletes failure groups and counts that are as old as the history."""

from __future__ import annotations

from datetime import datetime, timedelta

from recorder.audit_retention import delete_oldest
from recorder.models import FailureCount, FailureGroup


def prune_failures(days: int, now: datetime) -> int:
    """Delete what was last seen so many days ago, up to 20,000 rows of each; how many went. What
    was said of a group goes with it. Raises DatabaseError; what went before stays gone."""
    edge = now - timedelta(days=days)
    counts = delete_oldest(FailureCount.objects.filter(start__lt=edge), "start")
    return counts + delete_oldest(FailureGroup.objects.filter(last_seen__lt=edge), "last_seen")
