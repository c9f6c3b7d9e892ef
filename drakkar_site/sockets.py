"""Routes of the websockets, behind the origin check and the same accounts as the pages."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

from channels.db import database_sync_to_async  # type: ignore[import-untyped]
from django.conf import settings
from django.db import Error
from django.http.request import split_domain_port, validate_host

from drakkar_site.accounts.socket_access import Key, headers_of, key_of, secret_of, still_open
from workers.control_plane.live.paced import AWAY, REFUSED, UNKNOWN, Pass
from workers.control_plane.live.socket import LiveConsumer
from workers.control_plane.live.tail_socket import TailConsumer

LIVE = "/ws/live"
TAIL = "/ws/tail/"
CHECK_SECONDS = 1.0
MAX_OPENING = 200
THREADS = 3
"""For all sockets: they take so many connections to Postgres, and the tailer one."""
DEFAULT_PORTS = {"http": 80, "https": 443}

logger = logging.getLogger("drakkar.live")


def websockets(max_sockets: int) -> Any:
    """Return the ASGI application of all websockets."""
    admissions = Admissions(max_sockets)
    live = LiveConsumer.as_asgi(admit=admissions.admit, shortest=shortest)
    tail = TailConsumer.as_asgi(admit=admissions.admit)

    async def route(scope: dict[str, Any], receive: Any, send: Any) -> Any:
        is_ours = may_come_from(scope)
        if is_ours and scope["path"].rstrip("/") == LIVE:
            return await live(scope, receive, send)
        if is_ours and (name := tail_of(scope["path"])):
            return await tail({**scope, "tail": name}, receive, send)
        return await send({"type": "websocket.close", "code": UNKNOWN})

    return route


def tail_of(path: str) -> tuple[str, str] | None:
    """Return cluster and task of a tail's address; None: it is none."""
    cluster, _, task_id = path.removeprefix(TAIL).partition("/")
    return (cluster, task_id) if path.startswith(TAIL) and cluster and task_id else None


class SocketPass(Pass):
    """An open socket's right to look on."""

    def __init__(self, admissions: Admissions, key: Key) -> None:
        self.key = key
        self.code: int | None = None
        self._admissions = admissions

    def give_back(self) -> None:
        """Free the place of a closed socket."""
        self._admissions.open.discard(self)


class Admissions:
    """Lets sockets in, and asks once a second for all of them whether they still may look on.

    Bounds how many are open, and how many are being opened: those past the bounds are refused
    before the database is asked. Loop thread only.
    """

    def __init__(self, max_sockets: int) -> None:
        self.open: set[SocketPass] = set()
        self._max_sockets = max_sockets
        self._opening = 0
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="sockets")
        self._check: asyncio.Task[None] | None = None

    async def admit(self, scope: dict[str, Any]) -> Pass | int:
        """A pass, or the close code that tells why there is none."""
        if len(self.open) + self._opening >= self._max_sockets or self._opening >= MAX_OPENING:
            return AWAY
        self._opening += 1
        try:
            key = await self._ask(key_of, scope)
        except Error as exc:
            logger.warning("live: Postgres is away: %s", exc)
            return AWAY
        finally:
            self._opening -= 1
        if key is None:
            return REFUSED
        made = SocketPass(self, key)
        self.open.add(made)
        if self._check is None or self._check.done():
            self._check = asyncio.create_task(self._check_all())
        return made

    async def _check_all(self) -> None:
        """Until none is open. Who cannot be asked about is sent away, to come again."""
        while self.open:
            await asyncio.sleep(CHECK_SECONDS)
            asked, code = tuple(self.open), REFUSED
            try:
                valid = await self._ask(still_open, {each.key for each in asked})
            except Error as exc:
                logger.warning("live: Postgres is away: %s", exc)
                valid, code = set(), AWAY
            except Exception:
                logger.exception("live: cannot tell who may look on")
                valid, code = set(), AWAY
            for each in asked:
                if each.key not in valid:
                    each.code = code

    async def _ask(self, question: Any, about: Any) -> Any:
        ask = database_sync_to_async(question, thread_sensitive=False, executor=self._threads)
        return await ask(about)


def shortest(cluster: str) -> float:
    """Return the shortest success of a cluster that is shown live, in milliseconds."""
    config = settings.DRAKKAR
    known = config.clusters.get(cluster) if config is not None else None
    return known.recorder.ws_min_duration_ms if known is not None else 0.0


def may_come_from(scope: dict[str, Any]) -> bool:
    """Whether the page that opens the socket is ours: same host and port, or a trusted origin.

    Browsers always name their origin; a program that does not must bring a token.
    """
    headers = headers_of(scope)
    if b"origin" not in headers:
        return bool(secret_of(scope))
    origin = headers[b"origin"].decode("latin-1").lower()
    host = headers.get(b"host", b"").decode("latin-1").lower()
    own = {_origin(settings.DRAKKAR_STATE.site.url), *map(_origin, settings.CSRF_TRUSTED_ORIGINS)}
    if _origin(origin) in own:
        return True
    named = validate_host(split_domain_port(host)[0], settings.ALLOWED_HOSTS)
    scheme = urlsplit(origin).scheme
    if scheme not in DEFAULT_PORTS or (settings.SESSION_COOKIE_SECURE and scheme != "https"):
        return False  # a page that came without TLS is nobody's own where the site has it
    return named and _origin(origin) == _origin(f"{scheme}://{host}")


def _origin(url: str) -> tuple[str, str, int | None]:
    """Scheme, host and port; the scheme's default port is the same as none."""
    try:
        parts = urlsplit(url)
        return parts.scheme, parts.hostname or "", parts.port or DEFAULT_PORTS.get(parts.scheme)
    except ValueError:
        return "", "", None
