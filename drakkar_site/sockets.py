"""Routes of the websockets, behind the origin check and the same accounts as the pages."""

from __future__ import annotations

import logging
from typing import Any
from urllib.parse import parse_qs, urlsplit

from channels.auth import AuthMiddlewareStack  # type: ignore[import-untyped]
from channels.db import database_sync_to_async  # type: ignore[import-untyped]
from channels.routing import URLRouter  # type: ignore[import-untyped]
from django.conf import settings
from django.contrib.auth import HASH_SESSION_KEY
from django.contrib.auth.models import User
from django.contrib.sessions.backends.db import SessionStore
from django.db import Error
from django.http.request import split_domain_port, validate_host
from django.urls import path
from django.utils.crypto import constant_time_compare

from drakkar_site.accounts import throttle
from drakkar_site.accounts.sessions import granted, is_open
from drakkar_site.accounts.tokens import identify
from workers.live.consumer import AWAY, LiveConsumer

logger = logging.getLogger("drakkar.live")
IS_OPEN = "drakkar.is_open"
"""Key of a socket's scope: whether its token has opened it."""
DEFAULT_PORTS = {"http": 80, "https": 443}


def websockets() -> Any:
    """The ASGI application of all websockets."""
    refuse: Any = _refuse
    live = LiveConsumer.as_asgi(may_look=database_sync_to_async(may_look), shortest=shortest)
    known = AuthMiddlewareStack(URLRouter([path("ws/live", live), path("<path:rest>", refuse)]))

    async def route(scope: dict[str, Any], receive: Any, send: Any) -> Any:
        try:
            return await (known if may_come_from(scope) else refuse)(scope, receive, send)
        except Error as exc:
            logger.warning("live: Postgres is away: %s", exc)
            return await send({"type": "websocket.close", "code": AWAY})

    return route


def shortest(cluster: str) -> float:
    """The shortest success of a cluster that is shown live, in milliseconds."""
    config = settings.DRAKKAR
    known = config.clusters.get(cluster) if config is not None else None
    return known.recorder.ws_min_duration_ms if known is not None else 0.0


async def _refuse(_scope: Any, _receive: Any, send: Any) -> None:
    await send({"type": "websocket.close", "code": 4404})


def may_come_from(scope: dict[str, Any]) -> bool:
    """Whether the page that opens the socket is ours: same host and port, or a trusted origin.

    Browsers always name their origin; a program that does not must bring a token.
    """
    headers = dict(scope["headers"])
    if b"origin" not in headers:
        return bool(secret_of(scope))
    origin = headers[b"origin"].decode("latin-1").lower()
    host = headers.get(b"host", b"").decode("latin-1").lower()
    own = {_origin(settings.DRAKKAR_STATE.site.url), *map(_origin, settings.CSRF_TRUSTED_ORIGINS)}
    if _origin(origin) in own:
        return True
    named = validate_host(split_domain_port(host)[0], settings.ALLOWED_HOSTS)
    scheme = urlsplit(origin).scheme
    return named and scheme in DEFAULT_PORTS and _origin(origin) == _origin(f"{scheme}://{host}")


def _origin(url: str) -> tuple[str, str, int | None]:
    """Scheme, host and port; the scheme's default port is the same as none."""
    try:
        parts = urlsplit(url)
        return parts.scheme, parts.hostname or "", parts.port or DEFAULT_PORTS.get(parts.scheme)
    except ValueError:
        return "", "", None


def may_look(scope: dict[str, Any]) -> bool:
    """Whether this socket's session or token still may read."""
    secret = secret_of(scope)
    return _by_token(scope, secret) if secret else _by_session(scope)


def _by_session(scope: dict[str, Any]) -> bool:
    """Both are read anew: what the scope holds is as old as the socket."""
    session = SessionStore(scope["session"].session_key)
    user = User.objects.filter(pk=scope["user"].pk, is_active=True).first()
    if user is None or not session.session_key:
        return False
    mark = session.get(HASH_SESSION_KEY, "")  # of the password; none in an ended session
    is_same = constant_time_compare(mark, user.get_session_auth_hash())
    return is_same and is_open(session) and "read" in granted(session, user)


def secret_of(scope: dict[str, Any]) -> str:
    """The token of the query or of the header; empty without one."""
    query = parse_qs(str(scope["query_string"].decode("latin-1")))
    if query.get("token"):
        return str(query["token"][0])
    header = dict(scope["headers"]).get(b"authorization", b"").decode("latin-1")
    kind, _, value = header.partition(" ")
    return str(value.strip()) if kind.lower() == "bearer" else ""


def _by_token(scope: dict[str, Any], secret: str) -> bool:
    """An open socket's is no attempt: it is not counted, and others' do not end the socket."""
    address = (scope.get("client") or ["unknown"])[0]
    if not scope.get(IS_OPEN) and throttle.wait_seconds(address):
        return False
    identity = identify(secret)
    if identity is None and not scope.get(IS_OPEN):
        throttle.note_failure(address)
    may = identity is not None and "read" in identity.scopes
    scope[IS_OPEN] = scope.get(IS_OPEN) or may
    return may
