"""Operations of the API on jobs of dead letters: replays and resolutions."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID, uuid4

from django.http import HttpRequest
from django.shortcuts import get_object_or_404
from ninja import Field, Router, Schema, Status
from ninja.errors import HttpError

from domain.failure import FailureKind, Stage
from domain.paging import BadFilter
from domain.text_bounds import MAX_NAME, MAX_VALUE
from sinks.letter_jobs import (
    MAX_CHOSEN,
    MAX_RATE,
    MAX_REASON,
    MIN_RATE,
    BadJob,
    ask_for,
    chosen,
    matching,
    pinned,
)
from sinks.letter_rows import Filters
from sinks.models import LetterAction, LetterJob, LetterJobState
from sinks.replay import Selection
from workers.control_plane.job_queue import listed

router = Router(tags=["dead letters"])
MAX_ID = 2**63 - 1


LetterId = Annotated[int, Field(ge=1, le=MAX_ID)]


class LetterJobIn(Schema):
    """What to do, and with which letters: the ids in ``letter``, or all open ones of a ``cluster``
    that are there now, of this ``worker``, ``stage``, kind of ``failure``, failure ``group`` and
    ``sink``, with a task's ``label`` (``name=value``), with ``matching`` in their reason, from
    ``since`` and before ``until``, unless empty. ``rate`` is letters a second; ``resolve`` needs a
    ``reason``. The same ``key`` twice asks once."""

    action: Literal["source", "sink", "resolve"]
    letter: list[LetterId] = Field(default_factory=list, max_length=MAX_CHOSEN)
    cluster: str = Field("", max_length=63)
    worker: str = Field("", max_length=255)
    stage: Stage | None = None
    failure: FailureKind | None = None
    group: str = Field("", pattern=r"^([0-9a-f]{20})?$")
    sink: str = Field("", max_length=255)
    label: str = Field("", max_length=MAX_NAME + MAX_VALUE + 1, pattern=r"^([^=]+=.*)?$")
    matching: str = Field("", max_length=256)
    since: datetime | None = None
    until: datetime | None = None
    reason: str = Field("", max_length=MAX_REASON)
    rate: float = Field(10.0, ge=MIN_RATE, le=MAX_RATE)
    key: str = Field("", max_length=64)


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
    try:
        found = listed(
            LetterJob.objects, LetterJobState.values, cluster=cluster, state=state, older=older
        )
    except BadFilter as exc:
        raise HttpError(422, str(exc)) from None
    return {"jobs": found.rows, "older": found.older or None}


@router.post(
    "/dead-letters/jobs", response={202: LetterJobOut}, summary="Replay or resolve dead letters"
)
def ask_job(request: HttpRequest, asked: LetterJobIn) -> Status[LetterJob]:
    """Queue a job, without asking back; the controller does it."""
    try:
        job = ask_for(
            pinned(_selection(asked)),
            LetterAction(asked.action),
            actor=request.user.get_username(),
            key=asked.key or uuid4().hex,
            reason=asked.reason.strip(),
            rate=asked.rate,
        )
    except BadJob as exc:
        raise HttpError(422, str(exc)) from None
    return Status(202, job)


def _selection(asked: LetterJobIn) -> Selection:
    """Return the letters of a request. Raises BadJob."""
    action = LetterAction(asked.action)
    if not asked.letter:
        return matching(_filters(asked), action, 0)
    if _filters(asked) != Filters():
        raise BadJob("letter: expected ids alone, got cluster, worker or stage beside them")
    return chosen(asked.letter, action, 0)


def _filters(asked: LetterJobIn) -> Filters:
    return Filters(
        cluster=asked.cluster,
        worker=asked.worker,
        stage=str(asked.stage or ""),
        failure=str(asked.failure or ""),
        group=asked.group,
        sink=asked.sink,
        label=asked.label,
        reason=asked.matching,
        since=asked.since,
        until=asked.until,
    )


@router.get("/dead-letters/jobs/{uuid:job_id}", response=LetterJobOut, summary="One of them")
def get_job(request: HttpRequest, job_id: UUID) -> Any:
    """How far it got."""
    return get_object_or_404(LetterJob, id=job_id)
