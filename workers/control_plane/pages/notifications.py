"""``/notifications``: who is told of what is wrong, how sending goes, and what was told."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.conf import settings
from django.db.models import Count
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.http import require_POST, require_safe

from domain.finding import Severity
from domain.paging import Page, page
from domain.text_bounds import text_in
from workers.control_plane.finding_marks import standing_marks
from workers.control_plane.notify.outbox import TEST, database_now
from workers.control_plane.notify.receivers import Receiver, notifying_of
from workers.models import FindingEpisode, Notice, NoticeReceiver, NoticeState

STATUS_OF_CHANGE = {"started": "failed", "grew": "retrying", "ended": "completed", TEST: "waiting"}
STATUS_OF_SEVERITY = {
    Severity.PAGE: "failed",
    Severity.WARN: "retrying",
    Severity.NOTICE: "waiting",
}
MOST_EPISODES = 100


@require_safe
def notifications(request: HttpRequest) -> HttpResponse:
    """Receivers, what is told of now, marks, and notices, 50 a page, youngest first."""
    asked, error = request.GET, ""
    shown: Page[Notice] = Page(rows=())
    try:
        rows = Notice.objects.all()
        if receiver := text_in(asked, "receiver"):
            rows = rows.filter(receiver=receiver)
        older, newer = text_in(asked, "older"), text_in(asked, "newer")
        shown = page(rows, "created_at", older=older, newer=newer)
    except ValueError as exc:
        error = str(exc)
    known = notifying_of(settings.DRAKKAR_STATE.site)
    lines = _receivers(known.receivers, database_now())
    open_ = FindingEpisode.objects.filter(ended_at=None).order_by("began_at", "id")
    context = {
        "receivers": lines,
        "rules": known.rules,
        "episodes": [
            (each, STATUS_OF_SEVERITY[Severity(each.severity)]) for each in open_[:MOST_EPISODES]
        ],
        "marks": standing_marks(),
        "page": shown,
        "rows": [(each, STATUS_OF_CHANGE.get(each.change, "waiting")) for each in shown.rows],
        "names": [line["receiver"].name for line in lines],
        "is_waiting": any(each.state == NoticeState.QUEUED for each in shown.rows),
        "asked": asked,
        "error": error,
    }
    return render(request, "notifications.html", context, status=400 if error else 200)


@require_POST
def test_notification(request: HttpRequest) -> HttpResponse:
    """Queue a test message to a receiver of the configuration; one that waits already is enough."""
    name = request.POST.get("receiver", "")
    known = {each.name for each in notifying_of(settings.DRAKKAR_STATE.site).receivers}
    if name not in known:
        return HttpResponse("receiver: expected one of the configuration", status=400)
    waiting = Notice.objects.filter(receiver=name, change=TEST, state=NoticeState.QUEUED)
    if not waiting.exists():
        Notice.objects.create(
            receiver=name,
            change=TEST,
            severity=Severity.NOTICE,
            title="Test message",
            detail=f"Asked for by {request.user.get_username()}. Nothing is wrong.",
            path=reverse("notifications"),
        )
    return HttpResponseRedirect(f"{reverse('notifications')}?receiver={name}")


def _receivers(known: Any, now: datetime) -> list[dict[str, Any]]:
    """Return a line of each receiver: how it is told, and how sending to it goes."""
    rows = {row.name: row for row in NoticeReceiver.objects.all()}
    waiting = Notice.objects.filter(state=NoticeState.QUEUED).values_list("receiver")
    queued = dict(waiting.annotate(count=Count("id")))
    return [_line(each, rows.get(each.name), queued.get(each.name, 0), now) for each in known]


def _line(
    receiver: Receiver, row: NoticeReceiver | None, queued: int, now: datetime
) -> dict[str, Any]:
    status, word = "waiting", "nothing sent yet"
    if row is not None and row.failures_in_a_row:
        status, word = "failed", f"failed {row.failures_in_a_row} times in a row"
    elif queued and receiver.is_quiet(now):
        status, word = "paused", "quiet hours"
    elif row is not None and row.sent_at is not None:
        status, word = "completed", "sends"
    return {"receiver": receiver, "row": row, "queued": queued, "status": status, "word": word}
