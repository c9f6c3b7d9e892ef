"""Answers where no view gives one: a document for programs, a page for people."""

from __future__ import annotations

import sys

from django.db import InterfaceError, OperationalError
from django.http import Http404, HttpRequest, HttpResponse
from django.template.loader import render_to_string

from drakkar_site.problem_json import is_machine, problem
from recorder.databases import is_history_away

RETRY_SECONDS = "5"
NO_DATABASE = "The control plane's database does not answer, or not in time. Workers go on."
NO_HISTORY = (
    "The history's database (site.history_url) does not answer, or not in time. Workers go on, and "
    "pages that need no events work."
)
FAILED = "The control plane failed at this; its log says why."
NO_PAGE = "There is no such page. It may have gone with the retention of the history."
UNREADABLE = "The control plane cannot read this request."
FORBIDDEN = "You may not do this."
FORGED_CALL = (
    "By session a request that changes something needs this site's own Origin and the header "
    "X-CSRFToken with the value of the cookie csrftoken. With a bearer token it needs neither."
)
FORGED = "The form is too old, or not of this site. Open its page again and send it once more."


def failed(request: HttpRequest) -> HttpResponse:
    """A view raised: 503 where the database is away, else 500. Asks the database nothing."""
    if not isinstance(sys.exc_info()[1], OperationalError | InterfaceError):
        return _answer(request, 500, FAILED)
    response = _answer(request, 503, NO_HISTORY if is_history_away() else NO_DATABASE)
    response["Retry-After"] = RETRY_SECONDS
    return response


def missing(request: HttpRequest, exception: Exception) -> HttpResponse:
    """404; a view's own reason is said."""
    reason = exception.args[0] if isinstance(exception, Http404) and exception.args else None
    return _answer(request, 404, reason if isinstance(reason, str) else NO_PAGE)


def unreadable(request: HttpRequest, exception: Exception) -> HttpResponse:
    """400; why, is in the log only."""
    del exception
    return _answer(request, 400, UNREADABLE)


def forbidden(request: HttpRequest, exception: Exception) -> HttpResponse:
    """403, as of the admin's pages."""
    del exception
    return _answer(request, 403, FORBIDDEN)


def forged(request: HttpRequest, reason: str = "") -> HttpResponse:
    """403: the form's token or the origin does not fit; ``reason`` is Django's, for its log."""
    del reason
    return _answer(request, 403, FORGED_CALL if is_machine(request) else FORGED)


def refused(request: HttpRequest, status: int, detail: str, **headers: str) -> HttpResponse:
    """Answer what somebody may not do: a page for a person, a document for whoever sent a token."""
    if "Authorization" in request.headers:
        return problem(request, status, detail, **headers)
    response = _answer(request, status, detail)
    for name, value in headers.items():
        response[name] = value
    return response


def too_many(request: HttpRequest, seconds: int) -> HttpResponse:
    """429: this address has failed too often; ``seconds`` are left to wait."""
    detail = f"Too many failed attempts from this address. Try again in {seconds} s."
    return refused(request, 429, detail, **{"Retry-After": str(seconds)})


def _answer(request: HttpRequest, status: int, detail: str) -> HttpResponse:
    if is_machine(request):
        return problem(request, status, detail)
    # Without the request there is no frame of navigation, which would ask the database.
    framed = request if status == 404 else None
    context = {"status": status, "detail": detail}
    return HttpResponse(render_to_string("error.html", context, framed), status=status)
