"""The API's part about jobs on dead letters: what the controller was asked to replay or resolve."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from django.http import HttpRequest
from django.shortcuts import get_object_or_404
from ninja import Router, Schema
from ninja.errors import HttpError

from sinks.models import LetterJob, LetterJobState
from workers.keyset import page

router = Router(tags=["dead letters"])


class LetterJobOut(Schema):
    """A replay or a resolution that somebody asked for; ``result`` counts what became of the
    letters, ``error`` says why it failed."""

    id: UUID
    action: str
    cluster: str
    reason: str
    rate: float
    actor: str
    state: str
    created_at: datetime
    progress_at: datetime
    finished_at: datetime | None
    letters_total: int
    letters_done: int
    result: dict[str, bool | int]
    error: str


class LetterJobsOut(Schema):
    """Up to 50 jobs, newest first; ``older`` asks for the next ones, null at the end."""

    jobs: list[LetterJobOut]
    older: str | None


@router.get("/dead-letters/jobs", response=LetterJobsOut, summary="Replays and resolutions")
def list_jobs(request: HttpRequest, cluster: str = "", state: str = "", older: str = "") -> Any:
    """By keyset: repeat with ``older`` of the answer for the next 50."""
    if state and state not in LetterJobState.values:
        known = ", ".join(LetterJobState.values)
        raise HttpError(422, f"state: expected one of {known}, got {state[:40]}")
    given = {"cluster": cluster, "state": state}
    jobs = LetterJob.objects.filter(**{name: text for name, text in given.items() if text})
    try:
        found = page(jobs, "created_at", older=older)
    except ValueError as exc:
        raise HttpError(422, f"older: {exc}") from None
    return {"jobs": found.rows, "older": found.older or None}


@router.get("/dead-letters/jobs/{uuid:job_id}", response=LetterJobOut, summary="One of them")
def get_job(request: HttpRequest, job_id: UUID) -> Any:
    """How far it got."""
    return get_object_or_404(LetterJob, id=job_id)
