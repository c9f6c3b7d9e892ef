"""What the live page shows of the time before it was opened, read back in short pieces."""

from __future__ import annotations

from dataclasses import fields
from datetime import datetime, timedelta
from typing import Any

from django.http import HttpRequest
from django.utils import timezone
from ninja import Field, Query, Router, Schema
from ninja.errors import HttpError

from recorder.models import Event
from recorder.queries import names_of_runs
from recorder.reading import last_before, newest, shifted
from recorder.timestamps import EXPECTED, moment_of
from workers.control_plane.live.payloads import LIVE_KINDS, LiveEvent, fitting, live_event

PIECE = timedelta(minutes=10)
"""Time that one answer goes back at most, from its newest event on."""
LOOKED_EVENTS = 2000
"""Events of all workers that one answer looks at, at most."""
FIELDS = tuple(each.name for each in fields(LiveEvent))

router = Router(tags=["events"])


class EarlierAsked(Schema):
    """Whose events, and before when."""

    cluster: str = Field("", max_length=63)
    worker: str = Field("", max_length=255)
    until: str = Field(max_length=40, description=EXPECTED)


class EarlierOut(Schema):
    """Events of the kinds that the live page draws, oldest first, of the time from ``since`` up to
    ``until``; ``left_out`` more of them are not sent. ``is_first``: the history holds nothing
    earlier."""

    since: datetime
    events: list[dict[str, Any]]
    left_out: int
    is_first: bool


@router.get("/live/earlier", response=EarlierOut, summary="What happened before, as the live page")
def earlier(request: HttpRequest, asked: Query[EarlierAsked]) -> dict[str, Any]:
    """At most ten minutes or 2,000 events of the history: repeat with ``until=`` the answer's
    ``since``. Of more than 1,000 that fit the longest tasks and all failures are sent."""
    until = moment_of(asked.until, timezone.now())
    if until is None:
        raise HttpError(422, f"until: expected {EXPECTED}, got {asked.until}")
    return events_before(until, asked.cluster, asked.worker)


def events_before(until: datetime, cluster: str, worker: str) -> dict[str, Any]:
    """Return the fields of ``EarlierOut``."""
    looked: list[Event] = []
    # Bounded on both sides: of the tables of days, only those of the piece are opened.
    begin = shifted(last_before(until) or until, -PIECE)
    least, is_first = until, last_before(begin) is None
    rows = Event.objects.defer("stdout", "stderr", "args").filter(ts__gte=begin)
    for event in newest(rows, (until, 0)):
        least = least if looked else shifted(event.ts, -PIECE)
        if event.ts < least or len(looked) == LOOKED_EVENTS:
            is_first = False
            break
        looked.append(event)
    if len(looked) == LOOKED_EVENTS and not is_first:
        # Of the oldest moment some may be missing: the next answer has all of it.
        looked = [event for event in looked if event.ts > looked[-1].ts] or looked
        least = looked[-1].ts
    names = names_of_runs({event.run for event in looked})
    told = [
        live_event(event, names[event.run])
        for event in reversed(looked)
        if event.kind in LIVE_KINDS and _is_chosen(names.get(event.run), cluster, worker)
    ]
    kept = fitting(told)
    return {
        "since": least,
        # Not ``asdict``: it copies all that the labels and details hold.
        "events": [{name: getattr(event, name) for name in FIELDS} for event in kept],
        "left_out": len(told) - len(kept),
        "is_first": is_first,
    }


def _is_chosen(name: tuple[str, str] | None, cluster: str, worker: str) -> bool:
    return name is not None and cluster in ("", name[0]) and worker in ("", name[1])
