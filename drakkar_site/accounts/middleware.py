"""Deny by default: every request needs a session or a token, except a few open paths."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from urllib.parse import urlencode

from django.conf import settings
from django.contrib.auth import login
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import Resolver404, resolve
from django.utils.cache import patch_cache_control
from django.utils.encoding import escape_uri_path
from django.utils.http import escape_leading_slashes

from drakkar_site.accounts import throttle
from drakkar_site.accounts.addresses import address_of, is_in
from drakkar_site.accounts.audit import TOKEN, note
from drakkar_site.accounts.csrf import BY_BEARER
from drakkar_site.accounts.models import Outcome
from drakkar_site.accounts.sessions import granted, is_open, keep
from drakkar_site.accounts.tokens import Identity, identify
from drakkar_site.errors import refused, too_many
from drakkar_site.problem_json import is_machine, problem
from workers.control import SCOPES

BACKEND = "django.contrib.auth.backends.ModelBackend"
ADMIN_PATHS = ("/admin/", "/audit", "/config", "/tokens", "/notifications/test")
LOGIN, LOGOUT = "/login/", "/logout/"
ASKING = ("/control/new", "/control/partitions", "/findings/mark")
"""Forms that only who may send them opens."""
OWN_PATHS = ("/history/views",)
"""What readers keep for themselves: the page asks for more where others see it."""
OPEN_PATHS = ("/healthz", "/favicon.ico", LOGIN)
DOWNLOADS = frozenset({"export_history", "download_export"})
"""Routes whose answer is a file: programs fetch them, too."""
EXPORT_PATHS = ("/history/export", "/debug/databases/exports", "/api/v1/exports")
OWN_DOING = ("none", "same-origin")
"""Of ``Sec-Fetch-Site``: the reader's own, or a page's of ours. Who does not say is another."""
HEADERS = {
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}
"""Headers beside those of Django's middleware: no other site embeds ours, no page asks for more."""
Respond = Callable[[HttpRequest], HttpResponse]


class Gate:
    """Middleware; stands after authentication, before everything that shows data.

    It judges by ``path_info``, which the URL map reads: ``path`` may have a prefix before it.
    """

    def __init__(self, get_response: Respond) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Let the request pass, or answer it here."""
        refusal = self._refusal(request)
        response = self._get_response(request) if refusal is None else refusal
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        if not request.path_info.startswith(f"/{settings.STATIC_URL.strip('/')}/"):
            patch_cache_control(response, private=True, no_store=True)
        return response

    def _refusal(self, request: HttpRequest) -> HttpResponse | None:
        if "\0" in request.path_info:
            return problem(request, 404, "Nothing is called by a NUL character")
        if "%00" in request.META.get("QUERY_STRING", ""):
            return problem(request, 400, "The query holds a NUL character, which no text can")
        if request.path_info in OPEN_PATHS or _is_allowed_scrape(request):
            return None
        secret = secret_of(request)
        if secret:
            return self._by_token(request, secret)
        if request.user.is_authenticated and is_open(request.session):
            request.META[SCOPES] = granted(request.session, request.user)
            if needed_scope(request) in request.META[SCOPES]:
                return None
            return refused(request, 403, f"You lack the right {needed_scope(request)}")
        if is_machine(request):
            return problem(
                request, 401, "Sign in, or send a token", **{"WWW-Authenticate": "Bearer"}
            )
        return HttpResponseRedirect(f"{LOGIN}?{urlencode({'next': request.get_full_path()})}")

    def _by_token(self, request: HttpRequest, secret: str) -> HttpResponse | None:
        identity = identify(secret)
        if identity is None:
            return _failed(request)
        request.META[TOKEN], request.META[SCOPES] = identity.token_id, identity.scopes
        if needed_scope(request) not in identity.scopes:
            return refused(request, 403, f"The token lacks the scope {needed_scope(request)}")
        if _is_link(request):
            if not may_replace_session(request):
                return _without_token(request)
            return _session_for(request, identity)
        request.user = identity.user
        if bearer_of(request):  # never sent by a browser on its own: there is nothing to forge
            setattr(request, BY_BEARER, True)
        return None


def secret_of(request: HttpRequest) -> str:
    """Return the token of the header, or of the query on safe methods; empty without one."""
    in_query = request.GET.get("token", "") if request.method in ("GET", "HEAD") else ""
    return bearer_of(request) or in_query


def bearer_of(request: HttpRequest) -> str:
    """Return the token of the header; empty without one."""
    kind, _, value = request.headers.get("Authorization", "").partition(" ")
    return value.strip() if kind.lower() == "bearer" else ""


def _is_download(request: HttpRequest) -> bool:
    try:
        return resolve(request.path_info).url_name in DOWNLOADS
    except Resolver404:
        return False


def needed_scope(request: HttpRequest) -> str:
    """Return the scope that this request needs of a token."""
    if request.path_info.startswith(ADMIN_PATHS):
        return "admin"
    if request.path_info.startswith(EXPORT_PATHS):
        return "export"
    if request.path_info in ASKING:
        return "operate"
    is_own = request.path_info == LOGOUT or request.path_info.startswith(OWN_PATHS)
    is_reading = is_own or request.method in ("GET", "HEAD", "OPTIONS")
    return "read" if is_reading else "operate"


def _is_link(request: HttpRequest) -> bool:
    """Whether a person follows a link with a token to a page, which is to become a session.

    What a page of elsewhere embeds or fetches is no such link: it is answered as it is.
    """
    if bearer_of(request) or is_machine(request) or _is_download(request):
        return False
    return request.headers.get("Sec-Fetch-Mode", "navigate") == "navigate"


def may_replace_session(request: HttpRequest) -> bool:
    """Whether a link's token may open a session here.

    Where one is open, only a person's own doing replaces it (typed, a bookmark, a link of ours):
    else any site could have its visitors act as somebody else without their knowledge.
    """
    has_session = request.user.is_authenticated and is_open(request.session)
    return not has_session or request.headers.get("Sec-Fetch-Site") in OWN_DOING


def _session_for(request: HttpRequest, identity: Identity) -> HttpResponse:
    login(request, identity.user, backend=BACKEND)
    keep(request.session, identity)
    return _without_token(request)


def _without_token(request: HttpRequest) -> HttpResponse:
    """Lead to the same page, whose address shall not be kept with a secret in it."""
    query = request.GET.copy()
    del query["token"]
    path = escape_leading_slashes(escape_uri_path(request.path))  # two name another host
    return HttpResponseRedirect(path + (f"?{query.urlencode()}" if query else ""))


def _failed(request: HttpRequest) -> HttpResponse:
    """Answer a token that opens nothing; only such ones are counted and told to wait.

    A good one is never asked to wait for the bad ones of its address: 256 bits are not guessed.
    """
    address = address_of(request)
    if seconds := throttle.wait_seconds(address):
        return too_many(request, seconds)
    throttle.note_failure(address)
    note(request, Outcome.REFUSED, "unknown", "failed token")
    detail = "The token is unknown, expired or revoked"
    return refused(request, 401, detail, **{"WWW-Authenticate": "Bearer"})


def _is_allowed_scrape(request: HttpRequest) -> bool:
    if request.path_info != "/metrics":
        return False
    try:
        peer = ipaddress.ip_address(address_of(request))
    except ValueError:
        return False
    return is_in(peer, settings.DRAKKAR_STATE.site.metrics_allow)
