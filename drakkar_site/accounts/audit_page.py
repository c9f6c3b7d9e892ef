"""``/audit``: who did what, when, from where, on what, and what came of it. For admins."""

from __future__ import annotations

from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse, QueryDict
from django.shortcuts import render
from django.views.decorators.http import require_safe

from domain.paging import Page, page
from domain.text_bounds import text_in
from drakkar_site.accounts.models import AuditEntry, Outcome
from recorder.pages.history import time_of

EXACT = ("actor", "address", "outcome", "method")


@require_safe
def audit(request: HttpRequest) -> HttpResponse:
    """50 entries, youngest first; a bad filter or key is named, with status 400."""
    asked, error = request.GET, ""
    found: Page[AuditEntry] = Page(rows=())
    try:
        rows = _matching(asked)
        found = page(rows, "at", older=text_in(asked, "older"), newer=text_in(asked, "newer"))
    except ValueError as exc:
        error = str(exc)
    context = {"page": found, "outcomes": Outcome.values, "asked": asked, "error": error}
    return render(request, "audit.html", context, status=400 if error else 200)


def _matching(asked: QueryDict) -> QuerySet[AuditEntry]:
    rows = AuditEntry.objects.filter(
        **{name: text for name in EXACT if (text := text_in(asked, name))}
    )
    if since := time_of(asked, "since"):
        rows = rows.filter(at__gte=since)
    if until := time_of(asked, "until"):
        rows = rows.filter(at__lt=until)
    if text := text_in(asked, "text"):
        rows = rows.filter(Q(path__icontains=text) | Q(target__icontains=text))
    return rows
