"""Operations of the API on actions: ask, and see what came of it."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from django.http import Http404, HttpRequest
from ninja import Field, Query, Router, Schema, Status
from ninja.errors import HttpError

from domain.paging import page
from workers.control import MAX_REASON
from workers.control_plane.cluster_requests import standing
from workers.control_plane.requests import Asker, NoTarget, ask, found, recent
from workers.models import ControlRequest

router = Router(tags=["control"])


class ControlIn(Schema):
    """What to ask, and the reason if there is one. The same ``key`` twice asks once; without
    ``worker``, a partition's owner."""

    cluster: str = Field(min_length=1, max_length=63)
    worker: str = Field("", max_length=255)
    action: str = Field(max_length=32)
    arguments: dict[str, Any] = {}
    key: str = Field("", max_length=64)
    reason: str = Field("", max_length=MAX_REASON)


class ControlOut(Schema):
    """A request and how far it got."""

    id: UUID
    cluster: str
    worker: str
    action: str
    arguments: dict[str, Any]
    state: str
    actor: str
    reason: str
    requested_at: datetime
    accepted_at: datetime | None
    ended_at: datetime | None
    run: UUID | None
    detail: str
    result: dict[str, Any] | None


class ControlsAsked(Schema):
    """Requests to which cluster and worker; empty: to all."""

    cluster: str = Field("", max_length=63)
    worker: str = Field("", max_length=255)
    older: str = Field("", max_length=100)


class ControlsOut(Schema):
    """Up to 50 requests, youngest first; ``older`` asks for the next ones, null at the end."""

    requests: list[ControlOut]
    older: str | None


class PausesAsked(Schema):
    """Pauses of which cluster; empty: of all."""

    cluster: str = Field("", max_length=63)
    older: str = Field("", max_length=100)


class PauseOut(Schema):
    """A pause on all workers of a cluster, those that start later too, until it is ended.

    ``subject`` is ``cluster``, ``group`` or ``key``; ``name`` that of the group or key, empty for
    the cluster. ``request`` is the one by which ``actor`` began it, ``reason`` why, if it was said.
    """

    cluster: str
    subject: str
    name: str
    actor: str
    reason: str
    since: datetime
    request: UUID


class PausesOut(Schema):
    """Up to 50 pauses that stand, youngest first; ``older`` asks for the next ones, null at the
    end."""

    pauses: list[PauseOut]
    older: str | None


NO_TARGET = {"description": "Nobody is there who could do it; a problem document"}


@router.post(
    "/control",
    response={202: ControlOut},
    summary="Ask a worker for an action",
    openapi_extra={"responses": {409: NO_TARGET}},
)
def post_control(request: HttpRequest, asked: ControlIn) -> Status[ControlRequest]:
    """Store the request; a live worker takes it with its next beat, else it expires after 60 s."""
    try:
        row = ask(Asker.of(request), **asked.dict())
    except ValueError as exc:
        raise HttpError(422, str(exc)) from exc
    except NoTarget as exc:
        raise HttpError(409, str(exc)) from exc
    return Status(202, row)


@router.get("/control", response=ControlsOut, summary="Requests, the youngest first")
def get_controls(request: HttpRequest, asked: Query[ControlsAsked]) -> Any:
    """By keyset: repeat with ``older`` of the answer for the next 50."""
    try:
        rows = page(recent(asked.cluster, asked.worker), "requested_at", older=asked.older)
    except ValueError as exc:
        raise HttpError(422, str(exc)) from None
    return {"requests": rows.rows, "older": rows.older or None}


@router.get("/pauses", response=PausesOut, summary="Pauses of clusters, groups and keys")
def get_pauses(request: HttpRequest, asked: Query[PausesAsked]) -> Any:
    """Those that stand, by keyset. A worker's own pauses are with the worker and its partitions."""
    try:
        rows = page(standing(asked.cluster), "since", older=asked.older)
    except ValueError as exc:
        raise HttpError(422, str(exc)) from None
    return {"pauses": rows.rows, "older": rows.older or None}


@router.get("/control/{request_id}", response=ControlOut, summary="One request")
def get_control(request: HttpRequest, request_id: UUID) -> ControlRequest:
    """How far a request got."""
    row = found(request_id)
    if row is None:
        raise Http404(f"There is no request {request_id}")
    return row
