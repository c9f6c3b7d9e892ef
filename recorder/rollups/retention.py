"""Deletes rollups and gauges that are past their days, a bounded number of rows a call."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from django.db import connections, router, transaction

from recorder.models import Gauge, Rollup
from recorder.rollups.sums import DAY, HOUR, MINUTE

STEP_ROWS = 5_000
TURN_STEPS = 10
"""Steps of one turn of the controller: 50,000 rows a table and span."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RollupRetention:
    """Days for which minutes are kept, and hours; days are kept as long as hours."""

    minute_days: int
    hour_days: int


def prune_rollups(retention: RollupRetention, now: datetime, steps: int = TURN_STEPS) -> int:
    """Delete what is past its days, 5,000 rows a transaction, at most so many ``steps`` for each
    table and span; how many went. Raises DatabaseError; what went before stays gone."""
    spans = (
        (MINUTE, retention.minute_days),
        (HOUR, retention.hour_days),
        (DAY, retention.hour_days),
    )
    return sum(
        _deleted(model, step, int(now.timestamp()) - days * DAY, steps)
        for model in (Rollup, Gauge)
        for step, days in spans
    )


def aged_rollups(retention: RollupRetention, now: datetime) -> int:
    """Return how many rows are past their days."""
    edges = ((MINUTE, retention.minute_days), (HOUR, retention.hour_days),
             (DAY, retention.hour_days))  # fmt: skip
    return sum(
        model._default_manager.filter(
            step=step, start__lt=int(now.timestamp()) - days * DAY
        ).count()
        for model in (Rollup, Gauge)
        for step, days in edges
    )


def _deleted(model: type[Rollup] | type[Gauge], step: int, edge: int, steps: int) -> int:
    alias = router.db_for_write(model)
    table, count = model._meta.db_table, 0
    for _ in range(steps):
        with transaction.atomic(using=alias), connections[alias].cursor() as cursor:
            cursor.execute(
                f"DELETE FROM {table} WHERE ctid = ANY(ARRAY(SELECT ctid FROM {table} "  # noqa: S608
                "WHERE step = %s AND start < %s LIMIT %s))",
                [step, edge, STEP_ROWS],
            )
            gone = cursor.rowcount
        count += gone
        if gone < STEP_ROWS:
            break
    return count
