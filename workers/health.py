"""The worker's own port: metrics, liveness, readiness, and the way to its page.

Served by threads of their own, so that it answers while the loop is blocked.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest


class PortTaken(Exception):
    """The metrics port cannot be bound; the text names it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probes:
    """What the port asks: each returns None when well, else what is wrong."""

    live: Callable[[], str | None]
    ready: Callable[[], str | None]


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
        handler = _handler(registry, probes, page_url)
        try:
            self._server = ThreadingHTTPServer((host, port), handler)
        except OSError as exc:
            raise PortTaken(
                f"metrics.port: cannot listen on {host}:{port}: {exc.strerror}"
            ) from exc
        self._server.daemon_threads = True

    @property
    def port(self) -> int:
        """The port in use."""
        return int(self._server.server_address[1])

    def start(self) -> None:
        """Serve from a daemon thread."""
        threading.Thread(target=self._server.serve_forever, name="health", daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()


def page_url(site_url: str, cluster: str, worker: str) -> str:
    """The control plane's view of one worker."""
    return f"{site_url}/?cluster={quote(cluster)}&worker={quote(worker)}"


def _handler(
    registry: CollectorRegistry, probes: Probes, location: str
) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 10

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path == "/metrics":
                self._answer(200, generate_latest(registry), CONTENT_TYPE_LATEST)
            elif path == "/healthz":
                self._probe(probes.live())
            elif path == "/readyz":
                self._probe(probes.ready())
            elif path == "/":
                self._answer(302, b"", "text/plain", location)
            else:
                self._answer(404, b"not found\n", "text/plain")

        def _probe(self, wrong: str | None) -> None:
            body = "ok" if wrong is None else wrong
            self._answer(200 if wrong is None else 503, f"{body}\n".encode(), "text/plain")

        def _answer(
            self, status: int, body: bytes, content_type: str, location: str | None = None
        ) -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            if location is not None:
                self.send_header("Location", location)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Scrapes are not logged."""

    return Handler
