"""Port of a worker: metrics, liveness, readiness, and the way to its page.

Served by one thread with a loop of its own, so that it answers while the worker's loop is blocked,
and so that no number of slow or silent clients costs more than their sockets.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import quote

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

MAX_CONNECTIONS = 64
"""Past these the oldest is closed: a probe gets through, whoever holds the others."""
MAX_HEAD_BYTES = 16 * 1024
REQUEST_SECONDS = 10.0
"""For all of a request: to send it, and to take its answer in."""
METHODS = ("GET", "HEAD")
TEXT = "text/plain; charset=utf-8"
GONE = (TimeoutError, ConnectionError, asyncio.IncompleteReadError)
"""Errors of a client that leaves, or fails to say what it wants in time."""

logger = logging.getLogger("drakkar.health")


class PortTaken(Exception):
    """Metrics port that cannot be bound; the text names it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probes:
    """Questions that the port asks; each returns None when well, else what is wrong."""

    live: Callable[[], str | None]
    ready: Callable[[], str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Status with its body; ``location`` is where a redirect leads."""

    status: int
    body: bytes
    content_type: str = TEXT
    location: str = ""

    def encoded(self, *, with_body: bool) -> bytes:
        """Return it as it is sent; the connection ends with it."""
        lines = [
            f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}",
            f"Content-Type: {self.content_type}",
            f"Content-Length: {len(self.body)}",
            *([f"Location: {self.location}"] if self.location else []),
            "Connection: close",
        ]
        head = "".join(f"{line}\r\n" for line in lines).encode("latin-1", "replace")
        return head + b"\r\n" + (self.body if with_body else b"")


class HealthServer:
    """``/metrics``, ``/healthz``, ``/readyz``; ``/`` leads to the control plane."""

    def __init__(
        self,
        *,
        host: str,
        port: int,
        registry: CollectorRegistry,
        probes: Probes,
        page_url: str,
    ) -> None:
        try:
            self._listener = _listener(host.strip("[]"), port)
        except OSError as exc:
            shown = f"[{host}]" if ":" in host and not host.startswith("[") else host
            raise PortTaken(
                f"metrics.port: cannot listen on {shown}:{port}: {exc.strerror}"
            ) from exc
        self._registry = registry
        self._probes = probes
        self._page_url = page_url
        self._connections: dict[asyncio.Task[None], None] = {}
        """Oldest first."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="health", daemon=True)

    @property
    def port(self) -> int:
        """Port in use."""
        return int(self._listener.getsockname()[1])

    def start(self) -> None:
        """Serve from a daemon thread."""
        self._thread.start()

    def close(self) -> None:
        """Stop listening, and end what is open."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        self._listener.close()
        self._loop.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        started = asyncio.start_server(self._meet, sock=self._listener, limit=MAX_HEAD_BYTES)
        server = self._loop.run_until_complete(started)
        self._loop.run_forever()
        server.close()
        for task in self._connections:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*self._connections, return_exceptions=True))

    async def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._connections) >= MAX_CONNECTIONS:
            next(iter(self._connections)).cancel()
        self._connections[task] = None
        try:
            with suppress(*GONE, asyncio.CancelledError):
                async with asyncio.timeout(REQUEST_SECONDS):
                    await self._serve(reader, writer)
        finally:
            del self._connections[task]
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request, and wait until it is taken in. Raises GONE."""
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            head = b""
        method, _, rest = head.partition(b"\r\n")[0].decode("latin-1").partition(" ")
        answer = self._answer(method, rest.partition(" ")[0].partition("?")[0])
        writer.transport.set_write_buffer_limits(0)  # a drain waits until all is gone
        writer.write(answer.encoded(with_body=method != "HEAD"))
        await writer.drain()
        writer.write_eof()
        await reader.read()  # else an abort could overtake what is still on the way

    def _answer(self, method: str, path: str) -> Answer:
        if method not in METHODS:
            return Answer(status=405 if method else 400, body=b"expected GET or HEAD\n")
        try:
            return self._found(path)
        except Exception as exc:
            logger.exception("health: %s failed", path)
            return Answer(status=500, body=f"{type(exc).__name__}\n".encode())

    def _found(self, path: str) -> Answer:
        match path:
            case "/metrics":
                text = generate_latest(self._registry)
                return Answer(status=200, body=text, content_type=CONTENT_TYPE_LATEST)
            case "/healthz":
                return _probed(self._probes.live())
            case "/readyz":
                return _probed(self._probes.ready())
            case "/":
                return Answer(status=302, body=b"", location=self._page_url)
        return Answer(status=404, body=b"not found\n")


def page_url(site_url: str, cluster: str, worker: str) -> str:
    """Return the address of one worker on the control plane."""
    return f"{site_url}/?cluster={quote(cluster)}&worker={quote(worker)}"


def _probed(wrong: str | None) -> Answer:
    return Answer(status=200 if wrong is None else 503, body=f"{wrong or 'ok'}\n".encode())


def _listener(host: str, port: int) -> socket.socket:
    """Return a socket that listens; ``::`` takes IPv4, too. Raises OSError."""
    flags = socket.AI_PASSIVE
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=flags)
    family, *_, address = found[0]
    is_any = host == "::" and socket.has_dualstack_ipv6()
    return socket.create_server(address, family=family, dualstack_ipv6=is_any, backlog=128)
