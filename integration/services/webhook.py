"""A webhook receiver that records what it got, so that a run can be judged by it.

``python -m integration.services.webhook --port P --record F`` answers every POST, PUT and PATCH of
JSON on loopback with 200 and appends one line to F: ``{at, path, idempotency_key, body}``. Other
bodies get 400; a GET of ``/`` or ``/healthz`` gets 200.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
import time
from contextlib import AbstractContextManager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, Any

from integration.services.base import Launch, Running, dying, started
from integration.services.ports import LOOPBACK, is_open
from workers.version import VERSION

MAX_BODY_BYTES = 1024 * 1024
IDLE_SECONDS = 60.0


class Recorder:
    """Appends a JSON object a line; called by the server's threads."""

    def __init__(self, out: IO[str]) -> None:
        self._out = out
        self._lock = threading.Lock()

    def write(self, entry: dict[str, Any]) -> None:
        """The line is with the system when this returns: a kill loses nothing answered."""
        with self._lock:
            self._out.write(json.dumps(entry) + "\n")
            self._out.flush()


class WebhookServer(ThreadingHTTPServer):
    """The receiver on one port; on loopback unless a container says otherwise."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, host: str, port: int, recorder: Recorder) -> None:
        super().__init__((host, port), Answer)
        self.recorder = recorder


class Answer(BaseHTTPRequestHandler):
    """One connection; its requests one after the other."""

    protocol_version = "HTTP/1.1"
    timeout = IDLE_SECONDS
    server: WebhookServer

    def do_GET(self) -> None:
        """``/`` and ``/healthz``, and nothing else."""
        is_known = self.path in ("/", "/healthz")
        self._answer(HTTPStatus.OK if is_known else HTTPStatus.NOT_FOUND)

    def do_POST(self) -> None:
        """Record the request, then answer."""
        size = self.headers.get("Content-Length", "")
        if not (size.isascii() and size.isdecimal()):
            self._refuse(HTTPStatus.LENGTH_REQUIRED)
        elif len(size) > len(str(MAX_BODY_BYTES)) or int(size) > MAX_BODY_BYTES:
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        else:
            self._answer(self._recorded(self.rfile.read(int(size))))

    do_PUT = do_PATCH = do_POST  # noqa: N815 - the standard library's names

    def _recorded(self, body: bytes) -> HTTPStatus:
        try:
            value = json.loads(body)
        except ValueError:
            return HTTPStatus.BAD_REQUEST
        self.server.recorder.write(
            {
                "at": time.time(),
                "path": self.path,
                "idempotency_key": self.headers.get("Idempotency-Key"),
                "body": value,
            }
        )
        return HTTPStatus.OK

    def _refuse(self, status: HTTPStatus) -> None:
        self.close_connection = True
        self._answer(status)

    def _answer(self, status: HTTPStatus) -> None:
        body = json.dumps({"status": status.phrase}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: what came stands in the record."""


def prepare(folder: Path, port: int) -> Launch:
    """Return how to start the receiver; its record is ``<folder>/received.jsonl``."""
    folder.mkdir(parents=True, exist_ok=True)
    argv = [sys.executable, "-m", "integration.services.webhook"]
    argv += ["--port", str(port), "--record", str(folder / "received.jsonl")]
    return Launch(
        name="webhook",
        argv=dying(argv),
        log_path=folder / "webhook.log",
        is_ready=lambda: is_open(port),
        env={"PYTHONPATH": str(Path(__file__).resolve().parents[2])},
        version=VERSION,
        ready_seconds=20.0,
        stop_seconds=5.0,
    )


class RunningWebhook(Running):
    """The receiver in a process of its own."""

    def __init__(self, folder: Path, port: int) -> None:
        super().__init__(prepare(folder, port))
        self.port = port
        self._record = folder / "received.jsonl"
        self.url = f"http://{LOOPBACK}:{port}/"

    def received(self) -> list[dict[str, Any]]:
        """Return what it got so far, in order."""
        return [json.loads(line) for line in self._record.read_text().splitlines()]


def running(folder: Path, port: int) -> AbstractContextManager[RunningWebhook]:
    """The receiver as a context manager. Raises ServiceFailed."""
    return started(RunningWebhook(folder, port))


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default=LOOPBACK, help="0.0.0.0 in a container")
    parser.add_argument("--port", type=int, default=9000)
    parser.add_argument("--record", type=Path, required=True)
    options = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    with options.record.open("a") as out:
        WebhookServer(options.host, options.port, Recorder(out)).serve_forever()


if __name__ == "__main__":
    main()
