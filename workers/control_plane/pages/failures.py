"""``/failures``: failures of one cause as one group, and one of them with all that it involves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, QueryDict
from django.shortcuts import get_object_or_404, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_POST, require_safe

from domain.failure import FailureKind
from domain.paging import BadFilter, Page
from domain.text_bounds import MAX_NAME, MAX_VALUE, text_in
from recorder.failures.reading import (
    SORTS,
    Filters,
    Involved,
    by_run,
    involved,
    last_deploys,
    listed,
    runs_by_id,
    samples,
    together,
)
from recorder.failures.states import MAX_NOTE, MAX_OWNER, change
from recorder.models import Event, FailureGroup, FailureState, Run
from recorder.timestamps import EXPECTED, moment_of
from workers.control_plane.pages.sparks import Spark

DAY = timedelta(hours=24)
POINTS = 24
SHOWN_LABELS = 3
LOOK = {
    FailureState.OPEN: "failed",
    FailureState.ACKNOWLEDGED: "running",
    FailureState.RESOLVED: "completed",
    FailureState.IGNORED: "paused",
}
ORDERS = {"last_seen": "failed last", "count": "most often", "first_seen": "newest kind"}
BY = {
    "worker": "Worker",
    "host": "Host",
    "handler_version": "Version of the handler",
    "program_version": "Version of the program",
}
Row = dict[str, Any]


@require_safe
def failures(request: HttpRequest) -> HttpResponse:
    """One page of 50 groups; a bad filter is named on the page, with status 400."""
    asked, now, error = request.GET, timezone.now(), ""
    found: Page[FailureGroup] = Page(rows=())
    filters = Filters()
    try:
        filters = filters_of(asked, now)
        ends = {name: asked.get(name, "") for name in ("older", "newer")}
        found = listed(filters, _sort(asked), **ends)
    except ValueError as exc:
        error = str(exc)
    since = filters.since or (filters.until or now) - DAY
    parts = involved([group.pk for group in found.rows], since, filters.until)
    runs = runs_by_id({run for part in parts.values() for run in part.runs})
    deploys = last_deploys()
    context = {
        "page": found,
        "rows": [_row(group, parts[group.pk], runs, deploys, now) for group in found.rows],
        "facets": together(parts.values()).facets(),
        "is_cut": any(part.is_cut for part in parts.values()),
        "error": error,
        "asked": asked,
        "since": since,
        "states": FailureState.values,
        "kinds": [kind.value for kind in FailureKind],
        "orders": ORDERS.items(),
    }
    return render(request, "failures/list.html", context, status=400 if error else 200)


@require_safe
def failure(request: HttpRequest, fingerprint: str) -> HttpResponse:
    """One group: how often, where, with what, its latest failures, and what can be done."""
    return _detail(request, get_object_or_404(FailureGroup, pk=fingerprint))


@require_POST
def change_failure(request: HttpRequest, fingerprint: str) -> HttpResponse:
    """Store what somebody says of a group; what is wrong is said on its page."""
    group = get_object_or_404(FailureGroup, pk=fingerprint)
    asked, now = request.POST, timezone.now()
    try:
        change(
            group,
            text_in(asked, "action"),
            actor=request.user.get_username(),
            now=now,
            note=text_in(asked, "note") if "note" in asked else None,
            owner=text_in(asked, "owner") if "owner" in asked else None,
            until=_time(asked, "until", now),
        )
    except BadFilter as exc:
        return _detail(request, group, str(exc))
    return HttpResponseRedirect(reverse("failure", args=[group.pk]))


def filters_of(asked: QueryDict, now: datetime) -> Filters:
    """Return the filters of a query. Raises BadFilter naming the field."""
    return Filters(
        cluster=text_in(asked, "cluster"),
        state=_one_of(asked, "state", FailureState.values),
        kind=_one_of(asked, "kind", [kind.value for kind in FailureKind]),
        label=_label(text_in(asked, "label")),
        since=_time(asked, "since", now),
        until=_time(asked, "until", now),
        text=text_in(asked, "text")[:MAX_VALUE],
    )


def _detail(request: HttpRequest, group: FailureGroup, error: str = "") -> HttpResponse:
    now = timezone.now()
    found = involved([group.pk])[group.pk]
    runs = runs_by_id(found.runs)
    seen = [_sample(sample) for sample in samples(group.pk)]
    latest = _latest(seen)
    context = _row(group, found, runs, last_deploys(), now) | {
        "error": error,
        "facets": found.facets(),
        "by": [(title, by_run(found.runs, runs, name)) for name, title in BY.items()],
        "samples": seen,
        "latest": latest,
        "stderr": _text(latest),
        "found": found,
        "most_note": MAX_NOTE,
        "most_owner": MAX_OWNER,
        "cancels": [
            (f"{name}={value}", f"Cancel what has {name}={value} ({share:.0%} of these failures)")
            for name, value, share in found.most[:SHOWN_LABELS]
        ],
        "can_rerun": group.count > 0,
        "hour_ago": group.last_seen - timedelta(hours=1),
    }
    return render(request, "failures/detail.html", context, status=400 if error else 200)


def _row(
    group: FailureGroup,
    part: Involved,
    runs: Mapping[UUID, Run],
    deploys: Mapping[str, datetime],
    now: datetime,
) -> Row:
    deployed = deploys.get(group.cluster)
    return {
        "group": group,
        "status": LOOK[FailureState(group.state)],
        "part": part,
        "spark": _spark(part, now),
        "labels": [each for each in part.most if each[2] >= 0.2][:SHOWN_LABELS],
        "workers": [name for name, _ in by_run(part.runs, runs, "worker") if name],
        "versions": [name for name, _ in by_run(part.runs, runs, "handler_version") if name],
        "is_new": deployed is not None and group.first_seen >= deployed,
        "deployed": deployed,
    }


def _spark(part: Involved, now: datetime) -> Spark:
    """Failures by the hour over the last day."""
    hours: list[float | None] = [0.0] * POINTS
    for start, count in part.spans.items():
        ago = int((now - start) / timedelta(hours=1))
        if 0 <= ago < POINTS:
            hours[POINTS - 1 - ago] = (hours[POINTS - 1 - ago] or 0.0) + count
    return Spark(values=hours, recent=hours[-1])


def _sample(sample: Any) -> Row:
    names = ("ts", "kind", "topic", "partition", "offset", "task_id", "attempt")
    row = dict(zip(names, sample, strict=True))
    return row | {"ts": datetime.fromisoformat(row["ts"])}


def _latest(seen: Sequence[Row]) -> Event | None:
    """Return the event of the latest failed attempt that the history holds still."""
    for sample in seen:
        if sample["kind"] == "task_failed":
            rows = Event.objects.filter(task_id=sample["task_id"], kind="task_failed")
            return rows.filter(ts=sample["ts"], topic=sample["topic"]).first()
    return None


def _text(event: Event | None) -> str:
    return bytes(event.stderr or b"").decode("utf-8", "replace") if event is not None else ""


def _sort(asked: QueryDict) -> str:
    return _one_of(asked, "sort", list(SORTS)) or SORTS[0]


def _one_of(asked: QueryDict, name: str, known: list[str]) -> str:
    text = text_in(asked, name)
    if text and text not in known:
        raise BadFilter(f"{name}: expected one of {', '.join(known)}, got {text[:40]}")
    return text


def _label(text: str) -> tuple[str, str] | None:
    if not text:
        return None
    name, sign, value = text.partition("=")
    if not name or not sign or len(name) > MAX_NAME or len(value) > MAX_VALUE:
        raise BadFilter(f"label: expected name=value, got {text[:80]}")
    return name, value


def _time(asked: QueryDict, name: str, now: datetime) -> datetime | None:
    text = text_in(asked, name)
    found = moment_of(text, now) if text else None
    if text and found is None:
        raise BadFilter(f"{name}: expected {EXPECTED}, got {text[:40]}")
    return found
