"""``/dead-letters/<id>/edit``: change one letter's message, look at the change, send it."""

from __future__ import annotations

import uuid
from dataclasses import asdict
from typing import Any

from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404, render
from django.urls import reverse
from django.views.decorators.http import require_http_methods

from domain.message import MAX_CONTENT_BYTES
from sinks.letter_edit import Edit, edit_of, why_not
from sinks.letter_jobs import BadJob, ask_for
from sinks.message_form import (
    ENCODINGS,
    BadMessage,
    Form,
    form_of,
    form_of_letter,
)
from sinks.models import DeadLetter, LetterAction, LetterState
from sinks.pages.letter_actions import key_of_form
from sinks.replay import Selection

RATE = 10.0


@require_http_methods(["GET", "HEAD", "POST"])
def edit_letter(request: HttpRequest, letter_id: int) -> HttpResponse:
    """Return the form; what would be sent (``step`` is ``check``), or the job (``send``)."""
    letter = get_object_or_404(DeadLetter, pk=letter_id)
    form, edit, error = Form(), None, why_not(letter)
    try:
        if request.method == "POST":
            form = form_of(request.POST)
            if request.POST.get("step") == "send":
                job = _ask(request, letter, form)
                return HttpResponseRedirect(reverse("letter_job", kwargs={"job_id": job.id}))
            edit = edit_of(letter, form)
        elif not error:
            form = form_of_letter(letter)
    except (BadMessage, BadJob) as exc:
        error = str(exc)
    is_bad = bool(error) and request.method == "POST"
    context = _shown(letter, form, edit) | {"error": error}
    return render(request, "dead_letters/edit.html", context, status=400 if is_bad else 200)


def _ask(request: HttpRequest, letter: DeadLetter, form: Form) -> Any:
    """Raises BadMessage and BadJob; a form sent twice asks once."""
    return ask_for(
        Selection(cluster=letter.cluster, ids=[letter.pk]),
        LetterAction.EDIT,
        actor=request.user.get_username(),
        key=key_of_form(request.POST),
        reason="",
        rate=RATE,
        edit=lambda: edit_of(letter, form),
    )


def _shown(letter: DeadLetter, form: Form, edit: Edit | None) -> dict[str, Any]:
    kin = DeadLetter.objects.filter(
        cluster=letter.cluster, origin=letter.origin, topic=letter.topic, state=LetterState.OPEN
    )
    return {
        "letter": letter,
        "is_editable": not why_not(letter),
        "form": asdict(form),
        "edit": edit,
        "sizes": _sizes(letter, edit) if edit else [],
        "answers": kin.count(),
        "encodings": ENCODINGS,
        "most_kib": MAX_CONTENT_BYTES // 1024,
        "form_key": uuid.uuid4().hex,
    }


def _sizes(letter: DeadLetter, edit: Edit) -> list[tuple[str, str, str]]:
    """Each changed part before and after."""
    known: dict[str, tuple[Any, Any]] = {
        "key": (letter.key, edit.key),
        "value": (letter.value, edit.value),
    }
    found = [(name, _bytes(old), _bytes(new)) for name, (old, new) in known.items()]
    found.append(("headers", f"{len(letter.headers)}", f"{len(edit.headers)}"))
    return [each for each in found if each[0] in edit.parts]


def _bytes(content: Any) -> str:
    return "none" if content is None else f"{len(bytes(content)):,} bytes"
