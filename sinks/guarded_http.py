"""An HTTP session that connects to checked addresses only and keeps to one budget of time.

A name is resolved once per connection, its addresses are checked, and the connection goes to a
checked address itself: no second look-up could answer otherwise. Environment proxies are ignored.
"""

from __future__ import annotations

import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable
from http.cookiejar import DefaultCookiePolicy
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, PoolManager
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.util.ssl_ import create_urllib3_context

from sinks.addresses import refusal

Found = tuple[socket.AddressFamily, Any]


class AddressRefused(Exception):
    """No address of the host may be connected to; the text names them and says why."""


class CheckedConnector:
    """Maker of every connection of one session. Used by one thread."""

    def __init__(self, *, allow_private: bool) -> None:
        self._allow_private = allow_private
        self._deadline = 0.0

    def allow(self, seconds: float) -> None:
        """From now on everything through this connector has so long together."""
        self._deadline = time.monotonic() + seconds

    def remaining_seconds(self) -> float:
        """Return what is left of the budget. Raises TimeoutError when nothing is."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the time for the whole request is over")
        return left

    def connect(self, host: str, port: int) -> socket.socket:
        """A connection to a checked address of ``host``. Raises AddressRefused or OSError."""
        found = _resolve(host.strip("[]"), port, self.remaining_seconds())
        reasons = {at[0]: refusal(at[0], allow_private=self._allow_private) for _, at in found}
        allowed = [(family, at) for family, at in found if reasons[at[0]] is None]
        if not allowed:
            raise AddressRefused(f"{host}: {'; '.join(filter(None, reasons.values()))}")
        problem: OSError | None = None
        for left, (family, at) in zip(range(len(allowed), 0, -1), allowed, strict=True):
            try:
                # A way that swallows everything leaves time for the next address.
                return self._connected(family, at, self.remaining_seconds() / left)
            except OSError as exc:
                problem = exc
        raise problem or OSError(f"{host}: no address")

    def _connected(self, family: socket.AddressFamily, at: Any, seconds: float) -> socket.socket:
        connection = _timed_socket(self.remaining_seconds)(family, socket.SOCK_STREAM)
        try:
            connection.settimeout(seconds)
            connection.connect(at)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError:
            connection.close()
            raise
        return connection


def _resolve(host: str, port: int, seconds: float) -> list[Found]:
    """In a thread of its own: the resolver knows no timeout. Raises OSError."""
    answers: queue.SimpleQueue[list[Found] | OSError] = queue.SimpleQueue()

    def ask() -> None:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            answers.put([(family, at) for family, _, _, _, at in found])
        except UnicodeError as exc:
            answers.put(OSError(f"{host}: not a host name: {exc}"))
        except OSError as exc:
            answers.put(exc)

    threading.Thread(target=ask, name="resolve", daemon=True).start()
    try:
        answer = answers.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"{host}: no answer of the resolver in time") from None
    if isinstance(answer, OSError):
        raise answer
    return answer


def _timed_socket(remaining: Callable[[], float]) -> type[socket.socket]:
    """A socket whose every wait is bounded by one budget, not by a timeout a call."""

    class TimedSocket(socket.socket):
        def recv_into(self, *args: Any, **kwargs: Any) -> int:
            self.settimeout(remaining())
            return super().recv_into(*args, **kwargs)

        def sendall(self, *args: Any, **kwargs: Any) -> None:
            self.settimeout(remaining())
            super().sendall(*args, **kwargs)

    return TimedSocket


def _timed_context(remaining: Callable[[], float]) -> ssl.SSLContext:
    """Makes TLS sockets that keep to the same budget as ``_timed_socket``'s."""

    class TimedTlsSocket(ssl.SSLSocket):
        def recv_into(self, *args: Any, **kwargs: Any) -> int:
            self.settimeout(remaining())
            return super().recv_into(*args, **kwargs)

        def send(self, *args: Any, **kwargs: Any) -> int:
            self.settimeout(remaining())
            return super().send(*args, **kwargs)

    context = create_urllib3_context()
    context.sslsocket_class = TimedTlsSocket
    return context


def _pool_classes(connector: CheckedConnector) -> dict[str, Any]:
    class Connection(HTTPConnection):
        def _new_conn(self) -> socket.socket:
            return connector.connect(self.host, self.port)

    class TlsConnection(HTTPSConnection):
        def _new_conn(self) -> socket.socket:
            return connector.connect(self.host, self.port)

    class Pool(HTTPConnectionPool):
        ConnectionCls = Connection

    class TlsPool(HTTPSConnectionPool):
        ConnectionCls = TlsConnection

    return {"http": Pool, "https": TlsPool}


class _Adapter(HTTPAdapter):
    def __init__(self, connector: CheckedConnector) -> None:
        self._connector = connector
        super().__init__(max_retries=0, pool_connections=4, pool_maxsize=1)

    def init_poolmanager(
        self, connections: int, maxsize: int, block: bool = False, **pool_kwargs: Any
    ) -> None:
        context = _timed_context(self._connector.remaining_seconds)
        self.poolmanager = PoolManager(
            num_pools=connections, maxsize=maxsize, block=block, ssl_context=context, **pool_kwargs
        )
        self.poolmanager.pool_classes_by_scheme = _pool_classes(self._connector)


class _Session(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> str | None:
        """None: the library would read the whole body of a redirect, whatever its size."""
        return None


def guarded_session(connector: CheckedConnector) -> requests.Session:
    """A session of one thread, all of whose connections go through ``connector``. It follows no
    redirect and keeps no cookie."""
    session = _Session()
    session.trust_env = False
    session.headers.clear()
    session.headers["User-Agent"] = "drakkar"
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    adapter = _Adapter(connector)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return session
