"""The frame's own pages: login, health."""

from __future__ import annotations

from django.contrib.auth.forms import AuthenticationForm
from django.contrib.auth.views import LoginView
from django.http import HttpRequest, HttpResponse

from drakkar_site.accounts.throttle import address_of, note_failure
from drakkar_site.problem_json import problem


class Login(LoginView):
    """The login page; failures count against the address."""

    template_name = "registration/login.html"

    def form_invalid(self, form: AuthenticationForm) -> HttpResponse:
        """Say why, and count the failure."""
        note_failure(address_of(self.request))
        return super().form_invalid(form)


def healthz(_: HttpRequest) -> HttpResponse:
    """The process answers; nothing else is asked."""
    return HttpResponse("ok\n", content_type="text/plain")


def api_missing(request: HttpRequest) -> HttpResponse:
    """No such route of the API."""
    return problem(request, 404, "There is no such route; /api/v1/openapi.json lists them all")
