"""Open pages of the site: login, health."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.signals import user_logged_in
from django.contrib.auth.views import LoginView
from django.dispatch import receiver
from django.http import HttpRequest, HttpResponse

from drakkar_site.accounts import throttle
from drakkar_site.accounts.addresses import address_of
from drakkar_site.errors import too_many
from drakkar_site.problem_json import problem

ATTEMPT = "drakkar.attempt"
"""Key of ``request.META``: the number of the login that is tried."""


class Login(LoginView):
    """Login page. What is tried counts against its address, but for what is forged: no page of
    another site may use up a reader's attempts."""

    template_name = "registration/login.html"

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """Let a login be tried. It counts as failed from now on, until it has succeeded."""
        attempt = throttle.begin(address_of(request))
        request.META[ATTEMPT] = attempt.number
        if attempt.wait_seconds:
            return too_many(request, attempt.wait_seconds)
        return super().post(request, *args, **kwargs)


@receiver(user_logged_in)
def _forgive(request: HttpRequest, **_: Any) -> None:
    throttle.forgive(request.META.pop(ATTEMPT, None))


def healthz(_: HttpRequest) -> HttpResponse:
    """Answer that the process lives; nothing else is asked."""
    return HttpResponse("ok\n", content_type="text/plain")


def api_missing(request: HttpRequest) -> HttpResponse:
    """No such route of the API."""
    return problem(request, 404, "There is no such route; /api/v1/openapi.json lists them all")
