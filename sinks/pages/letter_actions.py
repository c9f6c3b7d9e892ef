"""``/dead-letters/jobs``: replay or resolve letters, with the effect in numbers first."""

from __future__ import annotations

import uuid
from typing import Any

from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, QueryDict
from django.shortcuts import get_object_or_404, render
from django.urls import reverse
from django.views.decorators.http import require_http_methods, require_safe

from domain.paging import BadFilter
from domain.text_bounds import text_in
from sinks.letter_jobs import (
    FINAL,
    MAX_CHOSEN,
    MAX_LETTERS,
    MAX_REASON,
    TO_SOURCE,
    BadJob,
    ask_for,
    chosen,
    matching,
    preview,
)
from sinks.letter_transports import no_road
from sinks.models import LetterAction, LetterJob, LetterJobState
from sinks.pages.dead_letters import filters_of
from sinks.replay import Selection

SHOWN_JOBS = 50
SHOWN_LETTERS = 10
DEFAULT_RATE = "10"
TITLES = {
    LetterAction.SOURCE: "Replay to the source",
    LetterAction.SINK: "Deliver to the sink",
    LetterAction.RESOLVE: "Resolve",
    LetterAction.EDIT: "Edit and replay",
}
MEANINGS = {
    LetterAction.SOURCE: "Each message is sent to its source topic again, byte for byte, once, "
    "whatever the number of its letters. Its delivery ids stay the same.",
    LetterAction.SINK: "A live worker gives each letter's payload to its sink again, with its own "
    "delivery id. Letters of other stages than deliver hold no payload and are left out.",
    LetterAction.RESOLVE: "The letters are closed for good; nothing is sent. They stay listed with "
    "the reason.",
}
LOOK = {
    LetterJobState.QUEUED: "waiting",
    LetterJobState.RUNNING: "running",
    LetterJobState.DONE: "completed",
    LetterJobState.FAILED: "failed",
}
COUNTS = {
    "replayed": "replayed",
    "letters": "letters they answer",
    "resolved": "letters resolved",
    "expired": "expired: their topic does not hold them any more",
    "taken": "left out: not open any more",
    "failed": "refused, open again",
    "unconfirmed": "not confirmed: look for them in the source topic",
}


@require_safe
def letter_jobs(request: HttpRequest) -> HttpResponse:
    """Return the latest 50 jobs."""
    jobs = LetterJob.objects.order_by("-created_at", "id")
    if cluster := text_in(request.GET, "cluster"):
        jobs = jobs.filter(cluster=cluster)
    rows = [_shown(job) for job in jobs[:SHOWN_JOBS]]
    context = {"rows": rows, "is_waiting": any(not row["is_final"] for row in rows)}
    return render(request, "dead_letters/jobs.html", context)


@require_safe
def letter_job(request: HttpRequest, job_id: uuid.UUID) -> HttpResponse:
    """One job, and how far it got."""
    return render(request, "dead_letters/job.html", _shown(get_object_or_404(LetterJob, id=job_id)))


@require_http_methods(["GET", "HEAD", "POST"])
def new_letter_job(request: HttpRequest) -> HttpResponse:
    """Show what would be done, in numbers, or ask for it; what is wrong is said here."""
    asked = request.POST if request.method == "POST" else request.GET
    try:
        if request.method == "POST":
            job = _ask(request, asked)
            return HttpResponseRedirect(reverse("letter_job", kwargs={"job_id": job.id}))
        return _confirm(request, asked)
    except (BadJob, BadFilter) as exc:
        try:
            return _confirm(request, asked, str(exc))
        except (BadJob, BadFilter):
            return render(request, "dead_letters/new_job.html", {"error": str(exc)}, status=400)


def _ask(request: HttpRequest, asked: QueryDict) -> LetterJob:
    """Queue the job of a form. Raises BadJob and BadFilter."""
    action = _action(asked)
    return ask_for(
        _selection(asked, action),
        action,
        actor=request.user.get_username(),
        key=key_of_form(asked),
        reason=text_in(asked, "reason"),
        rate=_rate(asked),
    )


def key_of_form(asked: QueryDict) -> str:
    """Return the key that makes asking idempotent. Raises BadJob."""
    key = asked.get("key_of_form", asked.get("key", ""))
    if len(key) != len(uuid.UUID(int=0).hex) or not key.isalnum():
        raise BadJob("key: expected the one of the form; open this page again")
    return key


def _confirm(request: HttpRequest, asked: QueryDict, error: str = "") -> HttpResponse:
    action = _action(asked)
    found = preview(_selection(asked, action), SHOWN_LETTERS)
    if not error and found.letters and action in TO_SOURCE:
        error = no_road(found.selection.cluster)
    context = {
        "action": action,
        "title": TITLES[action],
        "meaning": MEANINGS[action],
        "preview": found,
        "most": MAX_LETTERS,
        "max_reason": MAX_REASON,
        "key": uuid.uuid4().hex,
        "rate": asked.get("rate") or DEFAULT_RATE,
        "reason": asked.get("reason", ""),
        "asked": asked,
        "chosen": asked.getlist("letter"),
        "error": error,
    }
    return render(request, "dead_letters/new_job.html", context, status=400 if error else 200)


def _action(asked: QueryDict) -> LetterAction:
    """One of those that can be done to many letters. Raises BadJob."""
    got = asked.get("action", "")
    if got not in MEANINGS:
        raise BadJob(f"action: expected one of {', '.join(MEANINGS)}, got {got[:40]}")
    return LetterAction(got)


def _selection(asked: QueryDict, action: LetterAction) -> Selection:
    """Return the letters of a form. Raises BadJob and BadFilter."""
    up_to = _whole(asked.get("up_to", "") or "0", "up_to")
    if asked.get("of") == "all":
        return matching(filters_of(asked), action, up_to)
    ids = [_whole(text, "letter") for text in asked.getlist("letter")[: MAX_CHOSEN + 1]]
    return chosen(ids, action, up_to)


def _whole(text: str, name: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise BadJob(f"{name}: expected a whole number, got {text[:40]}")
    return int(text)


def _rate(asked: QueryDict) -> float:
    text = asked.get("rate", "") or DEFAULT_RATE
    try:
        return float(text)
    except ValueError:
        raise BadJob(f"rate: expected a number, got {text[:40]}") from None


def _shown(job: LetterJob) -> dict[str, Any]:
    result: dict[str, Any] = job.result
    return {
        "job": job,
        "title": TITLES[LetterAction(job.action)],
        "status": LOOK[LetterJobState(job.state)],
        "is_final": job.state in FINAL,
        "counts": [(result[name], text) for name, text in COUNTS.items() if result.get(name)],
    }
