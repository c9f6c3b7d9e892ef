"""``/reruns``: run messages again, all that match or one by name, with the effect shown first."""

from __future__ import annotations

import uuid
from typing import Any

from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, QueryDict
from django.shortcuts import get_object_or_404, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from domain.failure import FailureKind
from domain.paging import BadFilter, Page, page
from domain.text_bounds import text_in
from workers.control import MAX_REASON
from workers.control_plane.rerun.filters import NAMES, Filters, filters_of
from workers.control_plane.rerun.jobs import (
    DEFAULT_RATE,
    FINAL,
    BadRerun,
    Choices,
    ask_for,
    ask_to_cancel,
    preview,
)
from workers.control_plane.rerun.matching import MAX_MESSAGES
from workers.control_plane.rerun.report import SHOWN_MATCHES, progress_of
from workers.models import RerunJob, RerunMessageState, RerunState

LOOK = {
    RerunState.QUEUED: "waiting",
    RerunState.RUNNING: "running",
    RerunState.DONE: "completed",
    RerunState.FAILED: "failed",
    RerunState.CANCELLED: "paused",
}
SHOWN_MESSAGES = 20
NOT_WELL = (RerunMessageState.GONE, RerunMessageState.REFUSED, RerunMessageState.SENDING)


@require_safe
def reruns(request: HttpRequest) -> HttpResponse:
    """Reruns, 50 a page, youngest first; a bad key is named, with status 400."""
    asked, error = request.GET, ""
    shown: Page[RerunJob] = Page(rows=())
    rows = RerunJob.objects.all()
    if cluster := text_in(asked, "cluster"):
        rows = rows.filter(cluster=cluster)
    try:
        ends = {name: text_in(asked, name) for name in ("older", "newer")}
        shown = page(rows, "created_at", **ends)
    except ValueError as exc:
        error = str(exc)
    context = {
        "page": shown,
        "rows": [_shown(job) for job in shown.rows],
        "is_waiting": any(job.state not in FINAL for job in shown.rows),
        "error": error,
    }
    return render(request, "reruns/list.html", context, status=400 if error else 200)


@require_safe
def rerun(request: HttpRequest, job_id: uuid.UUID) -> HttpResponse:
    """One rerun, how far it got, and the messages that did not go well."""
    job = get_object_or_404(RerunJob, id=job_id)
    shown = _shown(job) | progress_of(job)
    bad = job.messages.filter(state__in=NOT_WELL) | job.messages.filter(has_failed=True)
    shown["bad"] = bad.order_by("id")[:SHOWN_MESSAGES]
    shown["is_open"] = not shown["is_final"] or any(
        "not ended" in text for _, text in shown["counts"]
    )
    return render(request, "reruns/detail.html", shown)


@require_POST
def cancel_rerun(request: HttpRequest, job_id: uuid.UUID) -> HttpResponse:
    """End it after what it is sending; an ended one stays as it is."""
    job = get_object_or_404(RerunJob, id=job_id)
    ask_to_cancel(job, request.user.get_username())
    return HttpResponseRedirect(reverse("rerun", kwargs={"job_id": job.id}))


@require_http_methods(["GET", "HEAD", "POST"])
def new_rerun(request: HttpRequest) -> HttpResponse:
    """Show the filters, and what would be run again; or ask for it. What is wrong is said here."""
    asked = request.POST if request.method == "POST" else request.GET
    try:
        if request.method == "POST":
            job = _ask(request, asked)
            return HttpResponseRedirect(reverse("rerun", kwargs={"job_id": job.id}))
        return _confirm(request, asked)
    except (BadRerun, BadFilter) as exc:
        return render(request, "reruns/new.html", _form(asked) | {"error": str(exc)}, status=400)


def _ask(request: HttpRequest, asked: QueryDict) -> RerunJob:
    """Queue the rerun of a form. Raises BadRerun and BadFilter."""
    key = asked.get("key_of_form", "")
    if len(key) != len(uuid.UUID(int=0).hex) or not key.isalnum():
        raise BadRerun("key_of_form: expected the one of the form; open this page again")
    return ask_for(
        _filters(asked),
        Choices(
            only_failed_tasks=asked.get("tasks", "failed") != "all",
            is_new_identity=asked.get("identity", "same") == "new",
            rate=_rate(asked),
        ),
        actor=request.user.get_username(),
        key=key,
        reason=text_in(asked, "reason"),
    )


def _confirm(request: HttpRequest, asked: QueryDict) -> HttpResponse:
    context = _form(asked)
    if asked.get("show") or any(asked.get(name) for name in NAMES):
        filters = _filters(asked)
        chosen = preview(filters)
        context |= {
            "filters": filters,
            "given": [each for each in filters.texts().items() if each[0] != "cluster"],
            "preview": chosen,
            "first": chosen.matches[:SHOWN_MATCHES],
            "most": MAX_MESSAGES,
            "key": uuid.uuid4().hex,
            "max_reason": MAX_REASON,
        }
    return render(request, "reruns/new.html", context)


def _form(asked: QueryDict) -> dict[str, Any]:
    return {
        "asked": {name: text_in(asked, name) for name in NAMES},
        "rate": text_in(asked, "rate") or f"{DEFAULT_RATE:g}",
        "kinds": list(FailureKind),
        "to_cluster": text_in(asked, "cluster"),
    }


def _filters(asked: QueryDict) -> Filters:
    """Return the filters of a form. Raises BadFilter."""
    texts = {name: text_in(asked, name) for name in NAMES}
    return filters_of(texts, text_in(asked, "cluster"), timezone.now())


def _rate(asked: QueryDict) -> float:
    text = text_in(asked, "rate") or f"{DEFAULT_RATE:g}"
    try:
        return float(text)
    except ValueError:
        raise BadRerun(f"rate: expected a number, got {text[:40]}") from None


def _shown(job: RerunJob) -> dict[str, Any]:
    return {
        "job": job,
        "status": LOOK[RerunState(job.state)],
        "is_final": job.state in FINAL,
    }
