"""Operations of the API on failure groups: list, one, and what is said of it."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from django.http import HttpRequest
from django.shortcuts import get_object_or_404
from django.utils import timezone
from ninja import Field, Query, Router, Schema
from ninja.errors import HttpError

from domain.paging import BadFilter
from recorder.failures.reading import by_run, involved, listed, runs_by_id, samples
from recorder.failures.states import MAX_NOTE, MAX_OWNER, change
from recorder.models import FailureGroup
from workers.control_plane.pages.failures import BY, filters_of

router = Router(tags=["failures"])


class FailuresAsked(Schema):
    """Which groups; empty means all. Times are UTC unless they say, or ages like ``2h``; ``until``
    is left out. ``text`` stands in the title."""

    cluster: str = Field("", max_length=63)
    state: str = Field("", max_length=16)
    kind: str = Field("", max_length=16)
    label: str = Field("", max_length=330, description="name=value")
    since: str = Field("", max_length=40)
    until: str = Field("", max_length=40)
    text: str = Field("", max_length=256)
    sort: Literal["last_seen", "count", "first_seen"] = "last_seen"
    older: str = Field("", max_length=80)


class FailureOut(Schema):
    """A group of failures of one cause."""

    fingerprint: str
    cluster: str
    kind: str
    title: str
    first_seen: datetime
    last_seen: datetime
    count: int
    letters: int
    state: str
    owner: str
    note: str
    changed_at: datetime | None
    changed_by: str
    resolved_at: datetime | None
    ignored_until: datetime | None
    ignored_count: int | None
    came_back_at: datetime | None


class FailuresOut(Schema):
    """Up to 50 groups; ``older`` asks for the next ones, null at the end."""

    failures: list[FailureOut]
    older: str | None


class CountOut(Schema):
    """A value and how many failures had it; empty: unknown."""

    value: str
    count: int


class SampleOut(Schema):
    """One of the latest failures."""

    ts: datetime
    kind: str
    topic: str | None
    partition: int | None
    offset: int | None
    task_id: str | None
    attempt: int | None


class FailureDetailOut(FailureOut):
    """A group with its counts by worker, host, version and label, and its latest failures.
    ``is_cut``: of the latest part of its time."""

    by: dict[str, list[CountOut]]
    labels: dict[str, list[CountOut]]
    samples: list[SampleOut]
    is_cut: bool


class FailureIn(Schema):
    """What is said of a group: ``action`` changes its state (``note``: leaves it), ``note`` and
    ``owner`` are left alone where they are null; ``until`` is for ``ignore``."""

    action: Literal["acknowledge", "resolve", "ignore", "reopen", "note"]
    note: str | None = Field(None, max_length=MAX_NOTE)
    owner: str | None = Field(None, max_length=MAX_OWNER)
    until: datetime | None = None


@router.get("/failures", response=FailuresOut, summary="Failure groups")
def list_failures(request: HttpRequest, asked: Query[FailuresAsked]) -> Any:
    """By keyset: repeat with ``older`` of the answer for the next 50."""
    try:
        filters = filters_of(request.GET, timezone.now())
        found = listed(filters, asked.sort, older=asked.older)
    except ValueError as exc:
        raise HttpError(422, str(exc)) from None
    return {"failures": found.rows, "older": found.older or None}


@router.get("/failures/{fingerprint}", response=FailureDetailOut, summary="A failure group")
def get_failure(request: HttpRequest, fingerprint: str) -> Any:
    """With what its failures have in common."""
    group = get_object_or_404(FailureGroup, pk=fingerprint)
    found = involved([group.pk])[group.pk]
    runs = runs_by_id(found.runs)
    return {
        **{name: getattr(group, name) for name in FailureOut.model_fields},
        "by": {name: _counts(by_run(found.runs, runs, name)) for name in BY},
        "labels": {name: _counts(values) for name, values in found.facets()},
        "samples": [
            dict(zip(SampleOut.model_fields, each, strict=True)) for each in samples(group.pk)
        ],
        "is_cut": found.is_cut,
    }


@router.patch("/failures/{fingerprint}", response=FailureOut, summary="Say what is done about it")
def change_failure(request: HttpRequest, fingerprint: str, asked: FailureIn) -> Any:
    """Acknowledge, resolve, ignore, open again; keep a note and an owner."""
    group = get_object_or_404(FailureGroup, pk=fingerprint)
    try:
        change(
            group,
            asked.action,
            actor=request.user.get_username(),
            now=timezone.now(),
            note=asked.note,
            owner=asked.owner,
            until=asked.until,
        )
    except BadFilter as exc:
        raise HttpError(422, str(exc)) from None
    return group


def _counts(pairs: list[tuple[str, int]]) -> list[dict[str, Any]]:
    return [{"value": value, "count": count} for value, count in pairs]
