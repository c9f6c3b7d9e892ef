"""Operations of the API on reruns of messages."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from django.http import HttpRequest
from django.shortcuts import get_object_or_404
from django.utils import timezone
from ninja import Field, Query, Router, Schema, Status
from ninja.errors import HttpError

from domain.paging import BadFilter
from workers.control import MAX_REASON
from workers.control_plane.job_queue import listed
from workers.control_plane.rerun.filters import NAMES, Filters, filters_of
from workers.control_plane.rerun.jobs import (
    DEFAULT_RATE,
    MAX_RATE,
    MIN_RATE,
    Choices,
    ask_for,
    ask_to_cancel,
    counts_of,
    preview,
)
from workers.control_plane.rerun.report import document_of
from workers.models import RerunJob, RerunState

router = Router(tags=["reruns"])


class RerunFilters(Schema):
    """Messages of a cluster whose latest outcome is a failure and that match all of these, or the
    one ``message`` (``partition:offset``) or ``task`` that is named. Times are like
    ``2026-03-14T03:10``, or an age like ``2h``. ``again``: ``yes`` takes those too that were sent
    again and have not ended since."""

    cluster: str = Field(..., max_length=63)
    failure: str = Field("", max_length=40)
    exit_code: str = Field("", max_length=20)
    label: str = Field("", max_length=400)
    since: str = Field("", max_length=40)
    until: str = Field("", max_length=40)
    key: str = Field("", max_length=512)
    partition: str = Field("", max_length=20)
    message: str = Field("", max_length=40)
    task: str = Field("", max_length=255)
    again: str = Field("", max_length=5)


class RerunIn(RerunFilters):
    """What to run again and how. ``rate`` is messages a second; ``all_tasks``: those too that did
    not fail; ``new_identity``: as other messages, with delivery ids of their own; ``reason``
    is why. The same ``key_of_form`` twice asks once."""

    all_tasks: bool = False
    new_identity: bool = False
    rate: float = Field(DEFAULT_RATE, ge=MIN_RATE, le=MAX_RATE)
    reason: str = Field("", max_length=MAX_REASON)
    key_of_form: str = Field("", max_length=64)


class RerunMatchOut(Schema):
    """A message that would be run again; ``tasks`` are the numbers of those that failed, none: the
    whole of it."""

    topic: str
    partition: int
    offset: int
    tasks: list[int]
    failure: str
    fate: str
    at: datetime | None


class RerunPreviewOut(Schema):
    """What a rerun would be for. ``looked_to``: failures from then on were not looked at;
    ``is_cut``: more match than one rerun takes; ``sent_already``: failed, and sent again since."""

    filters: dict[str, str]
    messages: int
    tasks: int
    oldest: datetime | None
    newest: datetime | None
    by_failure: dict[str, int]
    sent_already: int
    failures_seen: int
    looked_to: datetime | None
    is_cut: bool
    first: list[RerunMatchOut]


class RerunOut(Schema):
    """A rerun that somebody asked for; ``messages_total`` is null until its messages are chosen,
    ``error`` says why it failed. ``counts`` says what became of its messages."""

    id: UUID
    cluster: str
    filter_text: str
    only_failed_tasks: bool
    is_new_identity: bool
    rate: float
    actor: str
    reason: str
    state: str
    created_at: datetime
    progress_at: datetime
    finished_at: datetime | None
    cancelled_by: str
    messages_total: int | None
    messages_done: int
    error: str


class RerunDetailOut(RerunOut):
    """A rerun and what became of its messages, in numbers."""

    counts: dict[str, int]

    @staticmethod
    def resolve_counts(job: RerunJob) -> dict[str, int]:
        """Count them now."""
        return counts_of(job)


class RerunsOut(Schema):
    """Up to 50 reruns, newest first; ``older`` asks for the next ones, null at the end."""

    reruns: list[RerunOut]
    older: str | None


@router.get("/reruns", response=RerunsOut, summary="Reruns of messages")
def list_reruns(request: HttpRequest, cluster: str = "", state: str = "", older: str = "") -> Any:
    """By keyset: repeat with ``older`` of the answer for the next 50."""
    try:
        found = listed(
            RerunJob.objects, RerunState.values, cluster=cluster, state=state, older=older
        )
    except BadFilter as exc:
        raise HttpError(422, str(exc)) from None
    return {"reruns": found.rows, "older": found.older or None}


@router.get("/reruns/preview", response=RerunPreviewOut, summary="What a rerun would be for")
def preview_rerun(request: HttpRequest, asked: Query[RerunFilters]) -> Any:
    """In numbers, as things are now; nothing is sent."""
    try:
        filters = _filters(asked)
        return document_of(preview(filters), filters)
    except ValueError as exc:
        raise HttpError(422, str(exc)) from None


@router.post("/reruns", response={202: RerunOut}, summary="Run messages again")
def ask_rerun(request: HttpRequest, asked: RerunIn) -> Status[RerunJob]:
    """Queue a rerun, without asking back; the controller does it."""
    try:
        job = ask_for(
            _filters(asked),
            Choices(
                only_failed_tasks=not asked.all_tasks,
                is_new_identity=asked.new_identity,
                rate=asked.rate,
            ),
            actor=request.user.get_username(),
            key=asked.key_of_form or uuid4().hex,
            reason=asked.reason,
        )
    except ValueError as exc:
        raise HttpError(422, str(exc)) from None
    job.refresh_from_db()
    return Status(202, job)


@router.get("/reruns/{uuid:job_id}", response=RerunDetailOut, summary="One of them")
def get_rerun(request: HttpRequest, job_id: UUID) -> Any:
    """How far it got."""
    return get_object_or_404(RerunJob, id=job_id)


@router.post("/reruns/{uuid:job_id}/cancel", response={202: RerunOut}, summary="Cancel a rerun")
def cancel_rerun(request: HttpRequest, job_id: UUID) -> Status[RerunJob]:
    """What was sent stays sent; a rerun that has ended stays as it is."""
    job = get_object_or_404(RerunJob, id=job_id)
    ask_to_cancel(job, request.user.get_username())
    job.refresh_from_db()
    return Status(202, job)


def _filters(asked: RerunFilters) -> Filters:
    texts = {name: getattr(asked, name) for name in NAMES}
    return filters_of(texts, asked.cluster.strip(), timezone.now())
