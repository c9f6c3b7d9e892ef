"""Asking workers for things: the web side of ``control_inbox``."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.db.models.functions import Now
from django.http import HttpRequest

from workers.control import (
    EXPIRY_SECONDS,
    PARTITIONS,
    SCOPES,
    Action,
    Arguments,
    CancelArguments,
    Target,
    check_arguments,
    checked_reason,
)
from workers.control_plane.cluster_requests import ask_each, keep
from workers.control_plane.queries import (
    beats,
    holder_of,
    is_live,
    known_names,
    latest,
    partitions_of,
)
from workers.models import ControlRequest, ControlState

MAX_PARTITIONS = 500
"""Partitions that may be asked for at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asker:
    """Whoever asks: a name for the record, and the scopes that they have."""

    name: str
    scopes: Collection[str]
    user: User | None = None

    @classmethod
    def of(cls, request: HttpRequest) -> Asker:
        """Return who sent a request; whom the middleware knows nothing of has no scope."""
        user = request.user if isinstance(request.user, User) else None
        scopes = request.META.get(SCOPES, ())
        return cls(name=request.user.get_username(), scopes=scopes, user=user)


class NoTarget(LookupError):
    """Nobody is there who could do it."""


class KeyTaken(ValueError):
    """Raised for a key that was sent before, for something else."""


def ask(
    asker: Asker,
    *,
    cluster: str,
    worker: str,
    action: str,
    arguments: Mapping[str, Any],
    key: str = "",
    reason: str = "",
) -> ControlRequest:
    """Store a request; with a ``key`` used before, the request of that key, whoever owns the
    partition or lives by now. A ``reason`` is kept with it, and shown with what it began.

    An empty ``worker`` means the owner of the partition the action names, or the cluster where the
    action is asked of one (``Target``). Raises PermissionDenied where the action's scope is
    missing, ValueError for a bad action, argument or reason, KeyTaken (one of them) for a key of
    another request, NoTarget for an unknown cluster or worker or an unowned partition.
    """
    known, checked = check_arguments(action, arguments)
    of_asker = {"user": asker.user, "reason": checked_reason(reason)}
    if known.spec.scope not in asker.scopes:
        raise PermissionDenied(f"{known} needs the scope {known.spec.scope}")
    asked = {
        "cluster": cluster,
        "action": known.value,
        "arguments": checked.model_dump(mode="json", exclude_none=True),
        "actor": asker.name,
        **({"worker": worker} if worker else {}),
    }
    if (before := asked_before(key)) is not None:
        return _same(before, asked)
    if known.spec.target is not Target.WORKER and not worker:
        return _same(_ask_cluster({**asked, **of_asker}, known, checked, key), asked)
    if known.spec.target is Target.CLUSTER:
        raise ValueError(f"worker: expected none, for {known} is on the whole cluster")
    worker = worker or target_of(cluster, known, checked)
    if (cluster, worker) not in known_names():
        raise NoTarget(f"worker: expected one that ran before, got {cluster}/{worker or '-'}")
    row, _ = ControlRequest.objects.get_or_create(
        key=key or uuid.uuid4().hex, defaults={**asked, "worker": worker, **of_asker}
    )
    row.refresh_from_db()
    return _same(row, asked)


def _ask_cluster(
    fields: Mapping[str, Any], action: Action, arguments: Arguments, key: str
) -> ControlRequest:
    cluster = fields["cluster"]
    if action.spec.target is Target.CLUSTER:
        if cluster not in {known for known, _ in known_names()}:
            raise NoTarget(f"cluster: expected one that ran before, got {cluster or '-'}")
        return keep(key, fields, action, arguments)
    workers = live_workers(cluster) if cluster else []
    if not workers:
        raise NoTarget(f"cluster: no worker of {cluster or '-'} lives")
    of = f"{len(workers)} worker{'s' if len(workers) != 1 else ''}"
    return ask_each(key, fields, {worker: {"worker": worker} for worker in workers}, of)


def ask_partitions(
    asker: Asker,
    *,
    cluster: str,
    action: Action,
    places: Collection[tuple[str, int]],
    key: str = "",
    reason: str = "",
) -> ControlRequest:
    """Ask the owner of each partition (topic, number) by a request of its own, and return the one
    that they all stand below; once for the same ``key``. Those without a live owner are left out.

    Raises PermissionDenied where the action's scope is missing, ValueError for too many or a bad
    reason, KeyTaken (one of them) for a key of another request, NoTarget where none has an owner.
    """
    if action.spec.scope not in asker.scopes:
        raise PermissionDenied(f"{action} needs the scope {action.spec.scope}")
    if not 1 <= len(places) <= MAX_PARTITIONS:
        raise ValueError(f"place: expected 1 to {MAX_PARTITIONS} partitions, got {len(places)}")
    wanted = set(places)
    named = sorted(f"{topic}/{partition}" for topic, partition in wanted)
    asked = {
        "cluster": cluster,
        "action": action.value,
        "arguments": {PARTITIONS: named},
        "worker": "",
        "actor": asker.name,
    }
    of_asker = {"user": asker.user, "reason": checked_reason(reason)}
    if (before := asked_before(key)) is not None:
        return _same(before, asked)
    owned = partitions_of([beat for beat in beats(cluster) if is_live(beat)] if cluster else [])
    each = {
        f"{topic}/{partition}": {
            "worker": row.owner,
            "arguments": {"topic": topic, "partition": partition},
        }
        for row in owned
        for topic, partition in [row.beat.place]
        if (topic, partition) in wanted
    }
    if not each:
        raise NoTarget(f"partition: no live worker of cluster {cluster or '-'} owns any of them")
    of = f"the owners of {len(each)} partition{'s' if len(each) != 1 else ''}"
    if left := len(wanted) - len(each):
        of += f"; {left} without a live owner left out"
    return _same(ask_each(key, {**asked, **of_asker}, each, of), asked)


def live_workers(cluster: str) -> list[str]:
    """Return the names of the live workers of a cluster."""
    return sorted(beat.run.worker for beat in latest(beats(cluster)).values() if is_live(beat))


def asked_before(key: str) -> ControlRequest | None:
    """Return the request of that key; None without a key, too."""
    return ControlRequest.objects.filter(key=key).first() if key else None


def _same(row: ControlRequest, asked: Mapping[str, Any]) -> ControlRequest:
    """Return the row if it is what was asked. Raises KeyTaken."""
    other = [name for name, value in asked.items() if getattr(row, name) != value]
    if other:
        told = f"{row.action} of {row.cluster}/{row.worker}"
        raise KeyTaken(f"key: it was sent before, for {told} with another {other[0]}: send it anew")
    return row


def target_of(cluster: str, action: Action, arguments: Arguments) -> str:
    """Return the live worker that has the task, or owns the partition, that an action names.
    Raises NoTarget."""
    live = [beat for beat in beats(cluster) if is_live(beat)]
    if isinstance(arguments, CancelArguments):
        if (holder := holder_of(live, cluster, arguments.task_id)) is not None:
            return holder.run.worker
        raise NoTarget(f"task: no live worker of cluster {cluster} has {arguments.task_id}")
    if arguments.owned is None:
        raise NoTarget(f"worker: expected one that {action} is for, got none")
    for row in partitions_of(live):
        if row.beat.place == arguments.owned:
            return row.owner
    topic, partition = arguments.owned
    raise NoTarget(f"partition: no live worker of cluster {cluster} owns {topic} {partition}")


def expire_unanswered() -> int:
    """Requests that nobody accepted in time end as expired; returns how many."""
    late = ControlRequest.objects.filter(
        state=ControlState.REQUESTED,
        requested_at__lte=Now() - timedelta(seconds=EXPIRY_SECONDS),
    )
    detail = f"no worker accepted it within {EXPIRY_SECONDS:g} s"
    return late.update(state=ControlState.EXPIRED, ended_at=Now(), detail=detail)


def found(request_id: uuid.UUID) -> ControlRequest | None:
    """Return the request as it stands: expired in time though no controller runs that would say
    so."""
    expire_unanswered()
    return ControlRequest.objects.filter(id=request_id).first()


def recent(cluster: str = "", worker: str = "") -> QuerySet[ControlRequest]:
    """Requests as they stand, the youngest first; see ``found``."""
    expire_unanswered()
    rows = ControlRequest.objects.order_by("-requested_at", "id")
    if cluster:
        rows = rows.filter(cluster=cluster)
    return rows.filter(worker=worker) if worker else rows


def fail_abandoned(ended_runs: QuerySet[Any]) -> int:
    """End the requests accepted by runs (their ids) that ended since; one only taken for lost still
    answers when it is back."""
    return ControlRequest.objects.filter(state=ControlState.ACCEPTED, run__in=ended_runs).update(
        state=ControlState.FAILED,
        ended_at=Now(),
        detail="the worker ended or fell silent before it answered",
    )
