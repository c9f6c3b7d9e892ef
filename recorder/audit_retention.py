"""Deletes rows of ordinary tables past their time, in short transactions."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from django.apps import apps
from django.db.models import QuerySet

AUDIT = "accounts.AuditEntry"
"""By its label, as a foreign key names a model: its app stands above this one."""
STEP_ROWS = 1000
TURN_STEPS = 20


def aged_audit(days: int, now: datetime) -> QuerySet[Any]:
    """Return the audit entries that are ``days`` old, in no order."""
    edge = now - timedelta(days=days)
    model: Any = apps.get_model(AUDIT)
    found: QuerySet[Any] = model.objects.filter(at__lt=edge)
    return found


def prune_audit(days: int, now: datetime, steps: int = TURN_STEPS) -> int:
    """Delete the oldest of them, 1,000 a transaction, at most so many ``steps``; how many went.

    Raises DatabaseError; what went before stays gone.
    """
    return delete_oldest(aged_audit(days, now), "at", steps)


def delete_oldest(aged: QuerySet[Any], field: str, steps: int = TURN_STEPS) -> int:
    """Delete rows in the order of ``field``, 1,000 a transaction, at most so many ``steps``.

    Returns how many went. Raises DatabaseError; what went before stays gone.
    """
    count = 0
    for _ in range(steps):
        oldest = aged.order_by(field, "pk").values("pk")[:STEP_ROWS]
        gone, _ = aged.model._default_manager.filter(pk__in=oldest).delete()
        count += gone
        if gone < STEP_ROWS:
            break
    return count
