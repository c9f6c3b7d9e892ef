"""Requests to a whole cluster: pauses that stand until they are ended, and what each live worker is
asked beside the others."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from django.db import transaction
from django.db.models import QuerySet
from django.db.models.functions import Now

from workers.control import MAX_PAUSED, PAUSED_BY, RESUMED_BY, Action, Arguments, Subject
from workers.models import ControlRequest, ControlState, StandingPause

ASKED = "asked"
"""Key in the result of a request to each worker or partition: the ids of their requests by name."""

RESTING = {
    Subject.CLUSTER: "its workers rest with their next heartbeat",
    Subject.GROUP: "none of its tasks is started after its workers' next heartbeat",
    Subject.KEY: "none of its tasks is started after its workers' next heartbeat",
}
"""What follows from a pause, in words."""
STARTED = {
    Subject.CLUSTER: "its workers go on with their next heartbeat",
    Subject.GROUP: "its tasks are started again after its workers' next heartbeat",
    Subject.KEY: "its tasks are started again after its workers' next heartbeat",
}
"""What follows from its end."""


def keep(
    key: str, fields: Mapping[str, Any], action: Action, arguments: Arguments
) -> ControlRequest:
    """Begin or end a pause of a cluster, group or key; workers learn of it with their next beat.
    The same ``key`` does it once. Raises ValueError where as much is paused as may be."""
    with transaction.atomic():
        row, is_new = _stored(key, fields, {})
        if is_new:
            row.detail = _change(row, action, arguments)
            row.save(update_fields=["detail"])
    row.refresh_from_db()
    return row


def ask_each(
    key: str, fields: Mapping[str, Any], each: Mapping[str, Mapping[str, Any]], of: str
) -> ControlRequest:
    """Ask for each of these by a request with fields of its own (its ``worker`` among them), once
    for the same ``key``; the answers are those of their own requests (``asked_of``). ``of`` says of
    whom it is asked."""
    with transaction.atomic():
        asked = {name: str(uuid.uuid4()) for name in each}
        row, is_new = _stored(key, fields, {ASKED: asked})
        if is_new:
            row.detail = f"asked of {of}"
            row.save(update_fields=["detail"])
            ControlRequest.objects.bulk_create(
                ControlRequest(**{**fields, **each[name]}, id=uuid.UUID(own), key=own)
                for name, own in asked.items()
            )
    row.refresh_from_db()
    return row


def asked_of(row: ControlRequest) -> QuerySet[ControlRequest]:
    """Return the requests to each of one to many, by worker."""
    asked = (row.result or {}).get(ASKED) if not row.worker else None
    ids = list(asked.values()) if isinstance(asked, dict) else []
    return ControlRequest.objects.filter(id__in=ids).order_by("worker", "id")


def standing(cluster: str = "") -> QuerySet[StandingPause]:
    """Return the pauses that stand in a cluster (empty: in all), the oldest first."""
    rows = StandingPause.objects.order_by("since", "id")
    return rows.filter(cluster=cluster) if cluster else rows


def _stored(
    key: str, fields: Mapping[str, Any], result: Mapping[str, Any]
) -> tuple[ControlRequest, bool]:
    final = {"worker": "", "state": ControlState.DONE, "ended_at": Now(), "result": result or None}
    return ControlRequest.objects.get_or_create(
        key=key or uuid.uuid4().hex, defaults={**fields, **final}
    )


def _change(row: ControlRequest, action: Action, arguments: Arguments) -> str:
    """Return what was done, in words. Raises ValueError."""
    subject = PAUSED_BY.get(action) or RESUMED_BY[action]
    name = next((str(value) for value in arguments.model_dump().values()), "")
    of_subject = StandingPause.objects.filter(cluster=row.cluster, subject=subject)
    if action in RESUMED_BY:
        ended, _ = of_subject.filter(name=name).delete()
        return STARTED[subject] if ended else "it was not paused"
    # Of two that ask at once the second finds the row of the first.
    pause, is_new = StandingPause.objects.get_or_create(
        cluster=row.cluster,
        subject=subject,
        name=name,
        defaults={"actor": row.actor, "reason": row.reason, "request": row.id},
    )
    if not is_new:
        why = f": {pause.reason}" if pause.reason else ""
        since = f"{pause.since:%Y-%m-%d %H:%M:%S} UTC"
        return f"it is paused already, by {pause.actor} since {since}{why}"
    if subject is not Subject.CLUSTER and of_subject.count() > MAX_PAUSED:
        raise ValueError(f"{subject}: expected at most {MAX_PAUSED} paused at once in a cluster")
    return RESTING[subject]
