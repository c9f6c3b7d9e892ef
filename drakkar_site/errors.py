"""Answers where no view gives one: a document for programs, a page for people."""

from __future__ import annotations

import sys

from django.db import DatabaseError, InterfaceError, OperationalError
from django.http import Http404, HttpRequest, HttpResponse
from django.template.loader import render_to_string
from psycopg.errors import QueryCanceled

from drakkar_site.problem_json import is_machine, problem
from recorder.databases import is_history_away

RETRY_SECONDS = "5"
NO_DATABASE = "The control plane's database does not answer, or not in time. Workers go on."
NO_HISTORY = (
    "The history's database (site.history_url) does not answer, or not in time. Workers go on, and "
    "pages that need no events work."
)
TOO_LARGE = (
    "PostgreSQL had not answered this question when its time was up "
    "(site.web.statement_timeout_seconds). Ask for less: a shorter time (since, until), one "
    "cluster, worker, partition or task, and a text or label only together with one of them."
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
    """A view raised: 503 where the database is away or had no time for the question, else 500."""
    failure = sys.exc_info()[1]
    if not isinstance(failure, OperationalError | InterfaceError):
        return _answer(request, 500, FAILED)
    if isinstance(failure.__cause__, QueryCanceled):
        return _answer(request, 503, TOO_LARGE, is_framed=True, is_too_large=True)
    is_history = is_history_away()
    response = _answer(
        request, 503, NO_HISTORY if is_history else NO_DATABASE, is_framed=is_history
    )
    response["Retry-After"] = RETRY_SECONDS
    return response


def missing(request: HttpRequest, exception: Exception) -> HttpResponse:
    """404; a view's own reason is said."""
    reason = exception.args[0] if isinstance(exception, Http404) and exception.args else None
    return _answer(request, 404, reason if isinstance(reason, str) else NO_PAGE, is_framed=True)


def unreadable(request: HttpRequest, exception: Exception) -> HttpResponse:
    """400; why, is in the log only."""
    del exception
    return _answer(request, 400, UNREADABLE)


def forbidden(request: HttpRequest, exception: Exception) -> HttpResponse:
    """403, as of the admin's pages."""
    del exception
    return _answer(request, 403, FORBIDDEN, is_framed=True)


def forged(request: HttpRequest, reason: str = "") -> HttpResponse:
    """403: the form's token or the origin does not fit; ``reason`` is Django's, for its log."""
    del reason
    return _answer(request, 403, FORGED_CALL if is_machine(request) else FORGED, is_framed=True)


def refused(request: HttpRequest, status: int, detail: str, **headers: str) -> HttpResponse:
    """Answer what somebody may not do: a page for a person, a document for whoever sent a token."""
    if "Authorization" in request.headers:
        return problem(request, status, detail, **headers)
    response = _answer(request, status, detail, is_framed=True)
    for name, value in headers.items():
        response[name] = value
    return response


def too_many(request: HttpRequest, seconds: int) -> HttpResponse:
    """429: this address has failed too often; ``seconds`` are left to wait."""
    detail = f"Too many failed attempts from this address. Try again in {seconds} s."
    return refused(request, 429, detail, **{"Retry-After": str(seconds)})


def _answer(
    request: HttpRequest,
    status: int,
    detail: str,
    *,
    is_framed: bool = False,
    is_too_large: bool = False,
) -> HttpResponse:
    """Answer; a page has the navigation where ``is_framed``, for which the database is asked."""
    if is_machine(request):
        return problem(request, status, detail)
    context = {"status": status, "detail": detail, "is_too_large": is_too_large}
    try:
        page = render_to_string("error.html", context, request if is_framed else None)
    except (DatabaseError, InterfaceError):
        page = render_to_string("error.html", context)
    return HttpResponse(page, status=status)
