"""The API's part about the history: every event, filtered as on its page, by keyset."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.http import HttpRequest
from ninja import Field, Query, Router, Schema
from ninja.errors import HttpError

from domain.events import KINDS
from domain.paging import BadFilter
from recorder.api import EventOut
from recorder.pages.history import MAX_PARTITION, filters_of, key_of, written
from recorder.queries import Page, names_of_runs, page

router = Router(tags=["history"])


class EventsAsked(Schema):
    """Which events; empty means all. Times are UTC unless they say, ``until`` is left out."""

    kind: list[str] = Field(default_factory=list, max_length=len(KINDS))
    cluster: str = Field("", max_length=63)
    worker: str = Field("", max_length=255)
    topic: str = Field("", max_length=249)
    partition: int | None = Field(None, ge=0, le=MAX_PARTITION)
    task: str = Field("", max_length=255)
    label: str = Field("", max_length=1000, description="name=value")
    since: str = Field("", max_length=40)
    until: str = Field("", max_length=40)
    text: str = Field("", max_length=1000)
    older: str = Field("", max_length=80)
    newer: str = Field("", max_length=80)


class ListedEvent(EventOut):
    """A row of the history with the name of its run; null where the run is gone."""

    id: int
    cluster: str | None
    worker: str | None
    labels: Any


class EventsOut(Schema):
    """Up to 50 events, newest first. ``older`` and ``newer`` ask for the pages on both sides, null
    where there is none. ``searched_to``: a search for a text or label looked at so much and found
    the rest of its page no further than here; go on with ``older``."""

    events: list[ListedEvent]
    older: str | None
    newer: str | None
    searched_to: datetime | None


@router.get("/events", response=EventsOut, summary="The history, newest first")
def list_events(request: HttpRequest, asked: Query[EventsAsked]) -> dict[str, Any]:
    """By keyset: repeat with ``older`` of the answer for the next 50."""
    try:
        found = _found(request, asked)
    except BadFilter as exc:
        raise HttpError(422, str(exc)) from None
    names = names_of_runs({event.run for event in found.rows})
    for event in found.rows:
        event.cluster, event.worker = names.get(event.run, (None, None))  # type: ignore[attr-defined]
    return {
        "events": found.rows,
        "older": written(found.older) or None,
        "newer": written(found.newer) or None,
        "searched_to": found.searched_to,
    }


def _found(request: HttpRequest, asked: EventsAsked) -> Page:
    unknown = [kind for kind in asked.kind if kind not in KINDS]
    if unknown:
        raise BadFilter(f"kind: expected some of {', '.join(KINDS)}, got {unknown[0][:40]}")
    older, newer = (key_of(request.GET, name) for name in ("older", "newer"))
    return page(filters_of(request.GET), older=older, newer=newer)
