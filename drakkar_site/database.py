"""Django's database settings, from ``site.database_url``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar
from urllib.parse import parse_qsl, unquote, urlsplit

import psycopg
from django.core.handlers.asgi import ASGIRequest
from django.db import close_old_connections
from django.http import HttpRequest, HttpResponse
from psycopg.pq import TransactionStatus
from psycopg_pool import ConnectionPool

CONNECT_SECONDS = 5
POOL_SECONDS = 3.0
"""A websocket's handshake has five seconds, and its refusal has to fit in."""
UNACKNOWLEDGED_SECONDS = 15
"""A server whose host is gone acknowledges nothing: the connection is given up."""
GRACE_SECONDS, POLL_SECONDS = 2.0, 0.1
IDLE_SECONDS, LIFETIME_SECONDS = 30.0, 300.0
"""Seconds that a pooled connection rests and lives: then none leads to a server of before."""
ABANDONED_SECONDS = 60


def database(url: str) -> dict[str, Any]:
    """Return the settings of one PostgreSQL; what stands behind ``?`` goes to the client
    (``sslmode``)."""
    parts = urlsplit(url)
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": unquote(parts.path.lstrip("/")),
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": parts.hostname or "127.0.0.1",
        "PORT": str(parts.port or 5432),
        "OPTIONS": {
            "connect_timeout": CONNECT_SECONDS,
            "tcp_user_timeout": UNACKNOWLEDGED_SECONDS * 1000,
            **dict(parse_qsl(parts.query)),
        },
    }


def pooled(
    plain: dict[str, Any],
    *,
    connections: int,
    statement_seconds: float,
    lock_seconds: float,
) -> dict[str, Any]:
    """Return a database with a pool of at most so many connections, each wait on it bounded.

    A caller that gets no connection in three seconds, no lock in ``lock_seconds`` or no answer in
    ``statement_seconds`` meets an OperationalError, which a page answers by 503.
    """
    limits = {
        "statement_timeout": round(statement_seconds * 1000),
        "lock_timeout": round(lock_seconds * 1000),
        "idle_in_transaction_session_timeout": ABANDONED_SECONDS * 1000,
    }
    given = plain["OPTIONS"].get("options", "")
    bounds = " ".join(f"-c {name}={value}" for name, value in limits.items())
    pool = {
        "min_size": 0,
        "max_size": connections,
        "timeout": POOL_SECONDS,
        "max_idle": IDLE_SECONDS,
        "max_lifetime": LIFETIME_SECONDS,
        "reconnect_timeout": 0.0,  # try anew when somebody asks, not after a growing delay
        "reconnect_failed": _tell_waiting,
        "connection_class": _bounded(statement_seconds + GRACE_SECONDS),
    }
    options = {**plain["OPTIONS"], "options": f"{given} {bounds}".strip(), "pool": pool}
    return {**plain, "OPTIONS": options, "CONN_HEALTH_CHECKS": True}


def _tell_waiting(pool: ConnectionPool[Any]) -> None:
    """Say at once that the server is away, where no connection is left to wait for."""
    if not pool.get_stats().get("pool_size"):
        for waiting in tuple(pool._waiting):
            waiting.fail(psycopg.OperationalError("PostgreSQL does not answer"))


class _Bounded(psycopg.Connection[Any]):
    """A frozen server keeps its sockets open and runs no timeout of its own: give up here."""

    max_seconds: ClassVar[float]

    def wait(self, gen: Any, interval: float = POLL_SECONDS, timeout: float | None = None) -> Any:
        try:
            return super().wait(gen, interval, timeout or self.max_seconds)
        except psycopg.OperationalError:
            if self.pgconn.transaction_status == TransactionStatus.ACTIVE:
                self.pgconn.finish()  # else the rollback would wait for the same answer
            raise


def _bounded(seconds: float) -> type[_Bounded]:
    return type("Bounded", (_Bounded,), {"max_seconds": seconds})


class ReturnConnection:
    """Outermost middleware: what is answered is sent without holding a connection."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Answer; a slow reader of it costs memory only."""
        try:
            return self._get_response(request)
        finally:
            if isinstance(request, ASGIRequest):  # else the caller's own connection
                close_old_connections()
