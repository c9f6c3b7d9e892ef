"""The frame's own pages: login, health."""

from __future__ import annotations

from django.contrib.auth.views import LoginView
from django.http import HttpRequest, HttpResponse

from drakkar_site.problem_json import problem


class Login(LoginView):
    """The login page; the gate counts what is tried against the address."""

    template_name = "registration/login.html"


def healthz(_: HttpRequest) -> HttpResponse:
    """The process answers; nothing else is asked."""
    return HttpResponse("ok\n", content_type="text/plain")


def api_missing(request: HttpRequest) -> HttpResponse:
    """No such route of the API."""
    return problem(request, 404, "There is no such route; /api/v1/openapi.json lists them all")
