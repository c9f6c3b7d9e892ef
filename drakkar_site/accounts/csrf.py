"""No page of another site, or of another port of this host, sends anything in a reader's name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from django.http import HttpRequest, HttpResponseBase, HttpResponseForbidden
from django.middleware.csrf import CsrfViewMiddleware

from drakkar_site.problem_json import is_machine

BY_BEARER = "_dont_enforce_csrf_checks"
"""Attribute of a request that Django's check passes by: its sender is known by a header that no
browser sends on its own."""
SAFE = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
NO_ORIGIN = "Origin checking failed: an unsafe request to the API by session names none."


class CheckCsrf(CsrfViewMiddleware):
    """Django's check for every route: a view marked exempt, as django-ninja marks its own, is not.

    Cookies do not tell ports apart, so a page on another port knows the CSRF cookie, or sets it:
    what decides is the ``Origin``, which every browser sends with what changes something. Requests
    to the API by session need one; forms of pages need theirs to be ours where they have one.
    """

    def process_view(
        self,
        request: HttpRequest,
        callback: Callable[..., HttpResponseBase],
        callback_args: tuple[Any, ...],
        callback_kwargs: dict[str, Any],
    ) -> HttpResponseForbidden | None:
        """Answer 403 to what is forged; None lets the request pass."""
        if request.method not in SAFE and not getattr(request, BY_BEARER, False):
            _keep_body(request)
            if is_machine(request) and "Origin" not in request.headers:
                return self._reject(request, NO_ORIGIN)  # type: ignore[attr-defined, no-any-return]
        unmarked = partial(callback)  # which has not the attribute that exempts a view
        return super().process_view(request, unmarked, callback_args, callback_kwargs)


def _keep_body(request: HttpRequest) -> None:
    """Read the document before the check looks for a form's token in it."""
    if is_machine(request):
        _ = request.body
