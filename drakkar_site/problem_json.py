"""Errors as RFC 9457 problem documents."""

from __future__ import annotations

from http import HTTPStatus

from django.http import HttpRequest, HttpResponse, JsonResponse


def is_machine(request: HttpRequest) -> bool:
    """Whether a program asks: it gets documents, and 401 in place of the login page."""
    return request.path_info.startswith("/api/") or request.path_info == "/metrics"


def problem(request: HttpRequest, status: int, detail: str, **headers: str) -> HttpResponse:
    """A problem document about this request."""
    body = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "instance": request.path,
    }
    response = JsonResponse(body, status=status, content_type="application/problem+json")
    for name, value in headers.items():
        response[name] = value
    return response
