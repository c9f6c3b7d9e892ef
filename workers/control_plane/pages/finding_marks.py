"""``/findings/mark``: acknowledge or silence a finding, with a reason and an end, or end that."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.http import require_http_methods, require_POST

from domain.text_bounds import text_in
from workers.control_plane.finding_marks import MAX_REASON, mark, unmark
from workers.control_plane.findings import Finding
from workers.control_plane.situation import situation
from workers.models import FindingMark, MarkKind

HOURS = {1: "an hour", 4: "4 hours", 8: "8 hours", 24: "a day", 72: "3 days", 168: "a week"}
MEANINGS = {
    MarkKind.ACKNOWLEDGED: "I take it on: its growth is not told, its end is. It ends with it.",
    MarkKind.SILENCED: "Silence it: it is folded away and nothing is told, if it comes again too.",
}


@require_http_methods(["GET", "HEAD", "POST"])
def mark_finding(request: HttpRequest) -> HttpResponse:
    """Show a finding and what marking it means, or mark it; what is wrong is said in this place."""
    asked = request.POST if request.method == "POST" else request.GET
    try:
        key = text_in(asked, "finding")
    except ValueError as exc:
        return _page(request, None, str(exc), 400)
    found = next((each for each in situation().findings if each.key == key), None)
    if found is None:
        return _page(request, None, "It is not wrong any more, or never was.", 404)
    if request.method != "POST":
        return _page(request, found)
    try:
        kind, hours = _kind(text_in(asked, "mark")), _hours(text_in(asked, "hours"))
        reason = text_in(asked, "reason").strip()
        mark(found, kind, request.user.get_username(), reason, hours)
    except ValueError as exc:
        return _page(request, found, str(exc), 400)
    return HttpResponseRedirect(reverse("dashboard"))


@require_POST
def unmark_finding(request: HttpRequest) -> HttpResponse:
    """End the mark of a finding, whether that is wrong now or not."""
    unmark(request.POST.get("finding", "").replace("\0", ""))
    return HttpResponseRedirect(reverse("notifications"))


def _kind(word: str) -> MarkKind:
    if word not in MarkKind.values:
        raise ValueError(f"mark: expected one of {', '.join(MarkKind.values)}, got {word[:40]!r}")
    return MarkKind(word)


def _hours(text: str) -> int:
    if text not in map(str, HOURS):
        raise ValueError(f"hours: expected one of {', '.join(map(str, HOURS))}, got {text[:20]!r}")
    return int(text)


def _page(
    request: HttpRequest, found: Finding | None, error: str = "", status: int = 200
) -> HttpResponse:
    known = None if found is None else FindingMark.objects.filter(key=found.key).first()
    asked: Any = request.POST if request.method == "POST" else request.GET
    context = {
        "found": found,
        "known": known,
        "kinds": [(kind, MEANINGS[kind]) for kind in MarkKind],
        "chosen": asked.get("mark") or MarkKind.ACKNOWLEDGED,
        "hours": HOURS.items(),
        "reason": asked.get("reason", ""),
        "max_reason": MAX_REASON,
        "error": error,
    }
    return render(request, "findings/mark.html", context, status=status)
