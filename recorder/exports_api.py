"""The API's part about exports; every route needs the scope ``export``."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from django.http import Http404, HttpRequest
from django.shortcuts import get_object_or_404
from django.utils import timezone
from ninja import Field, Query, Router, Schema, Status
from ninja.errors import HttpError

from domain.paging import page
from recorder.export import Selection
from recorder.export_jobs import BadExport, ask_for
from recorder.models import ExportJob
from recorder.pages.export_file import file_answer
from recorder.timestamps import EXPECTED, moment_of

router = Router(tags=["exports"])


class ExportIn(Schema):
    """What to export; empty means all. ``name`` is what the download is called; ends it in ``.gz``,
    it is packed. The same ``key``
    twice asks once."""

    format: str
    name: str = "export"
    cluster: str = ""
    worker: str = ""
    runs: list[UUID] = Field(default_factory=list)
    kinds: list[str] = Field(default_factory=list)
    since: str = Field("", max_length=40, description=EXPECTED)
    until: str = Field("", max_length=40, description=EXPECTED)
    key: str = Field("", max_length=64)


class ExportOut(Schema):
    """An export and how far it is."""

    id: UUID
    name: str
    format: str
    state: str
    actor: str
    created_at: datetime
    finished_at: datetime | None
    expires_at: datetime | None
    events_done: int
    events_total: int | None
    size_bytes: int | None
    error: str


class ExportsAsked(Schema):
    """Where the list goes on; empty: from its head."""

    older: str = Field("", max_length=100)


class ExportsOut(Schema):
    """Up to 50 exports, newest first; ``older`` asks for the next ones, null at the end."""

    exports: list[ExportOut]
    older: str | None


@router.get("/exports", response=ExportsOut, summary="Exports, newest first")
def list_exports(request: HttpRequest, asked: Query[ExportsAsked]) -> Any:
    """By keyset: repeat with ``older`` of the answer for the next 50."""
    try:
        found = page(ExportJob.objects.all(), "created_at", older=asked.older)
    except ValueError as exc:
        raise HttpError(422, str(exc)) from None
    return {"exports": found.rows, "older": found.older or None}


@router.post("/exports", response={202: ExportOut}, summary="Ask for an export")
def ask_export(request: HttpRequest, body: ExportIn) -> Any:
    """Queue an export; the controller makes it."""
    selection = Selection(
        cluster=body.cluster.replace("\0", ""),
        worker=body.worker.replace("\0", ""),
        runs=body.runs,
        kinds=body.kinds,
        since=_time("since", body.since),
        until=_time("until", body.until),
    )
    try:
        actor = request.user.get_username()
        job = ask_for(selection, body.format, body.name, actor, body.key)
    except BadExport as exc:
        raise HttpError(422, str(exc)) from exc
    return Status(202, ExportJob.objects.get(id=job.id))


@router.get("/exports/{uuid:job_id}", response=ExportOut, summary="One export")
def get_export(request: HttpRequest, job_id: UUID) -> Any:
    """How far it is."""
    return get_object_or_404(ExportJob, id=job_id)


@router.api_operation(
    ["GET", "HEAD"], "/exports/{uuid:job_id}/file", summary="The file of a finished export"
)
def get_export_file(request: HttpRequest, job_id: UUID) -> Any:
    """The file, as a download, which can be resumed (``Range``, ``ETag``); 404 with the reason
    while there is none."""
    job = ExportJob.objects.filter(id=job_id).first()
    if job is None:
        raise Http404("There is no such export")
    return file_answer(request, job)


def _time(name: str, text: str) -> datetime | None:
    if not text.strip():
        return None
    found = moment_of(text, timezone.now())
    if found is None:
        raise HttpError(422, f"{name}: expected {EXPECTED}, got {text}")
    return found
