"""Fault H6: the worker's own port made a thread for each client, and wrote tracebacks."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from urllib.request import urlopen

import pytest
from prometheus_client import CollectorRegistry, Gauge

from workers.runtime.health import HealthServer, Probes

SLOW_CLIENTS = 200
PATIENCE_SECONDS = 5.0


@pytest.fixture
def server() -> Iterator[HealthServer]:
    """A port with two megabytes of metrics."""
    registry = CollectorRegistry()
    gauge = Gauge("large", "Large.", ["name"], registry=registry)
    for number in range(2000):
        gauge.labels(name=f"{number}{'x' * 1000}").set(1)
    made = HealthServer(
        host="127.0.0.1",
        port=0,
        registry=registry,
        probes=Probes(live=lambda: None, ready=lambda: "not yet"),
        page_url="http://page/",
    )
    made.start()
    try:
        yield made
    finally:
        made.close()


def connect(server: HealthServer, sent: bytes) -> socket.socket:
    made = socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_SECONDS)
    made.sendall(sent)
    return made


def probe(server: HealthServer) -> bytes:
    with urlopen(f"http://127.0.0.1:{server.port}/healthz", timeout=PATIENCE_SECONDS) as answer:
        return bytes(answer.read())


def test_slow_clients_cost_no_threads_and_hold_up_no_probe(server: HealthServer) -> None:
    before = threading.active_count()
    with ExitStack() as stack:
        for number in range(SLOW_CLIENTS):
            head = b"GET /healthz HTTP/1.1\r\nX-Slow: " if number % 2 else b""
            stack.enter_context(connect(server, head))
        began = time.monotonic()
        assert probe(server) == b"ok\n"
        assert time.monotonic() - began < PATIENCE_SECONDS / 2
        assert threading.active_count() <= before + 1


def test_a_client_that_leaves_is_no_traceback(
    server: HealthServer, capfd: pytest.CaptureFixture[str]
) -> None:
    for _ in range(20):
        with connect(server, b"GET /metrics HTTP/1.1\r\n\r\n") as left:
            # An end by reset, in the midst of what is sent.
            left.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            left.recv(1000)
    assert probe(server) == b"ok\n"
    assert "Traceback" not in capfd.readouterr().err


def test_an_answer_comes_whole_however_slowly_it_is_read(server: HealthServer) -> None:
    with connect(server, b"GET /metrics HTTP/1.1\r\n\r\n") as slow:
        parts = [slow.recv(64 * 1024)]
        assert probe(server) == b"ok\n"
        while part := slow.recv(64 * 1024):
            parts.append(part)
    head, _, body = b"".join(parts).partition(b"\r\n\r\n")
    assert f"Content-Length: {len(body)}".encode() in head
    assert len(body) > 2_000_000


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /readyz HTTP/1.1\r\n\r\n", b"503"),
        (b"HEAD /healthz HTTP/1.0\r\n\r\n", b"200"),
        (b"GET /?x=1 HTTP/1.1\r\n\r\n", b"302"),
        (b"GET /nothing HTTP/1.1\r\n\r\n", b"404"),
        (b"POST / HTTP/1.1\r\n\r\n", b"405"),
        (b"\r\n\r\n", b"400"),
        (b"\xff\xfe\r\n\r\n", b"405"),
        (b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\n\r\n", b"400"),
    ],
)
def test_every_request_has_an_answer(server: HealthServer, sent: bytes, status: bytes) -> None:
    with connect(server, sent) as asked:
        assert asked.recv(1000).split(b" ")[1] == status


@pytest.mark.parametrize("host", ["::1", "[::1]", "::"])
def test_listens_on_ipv6(host: str) -> None:
    if not socket.has_ipv6:
        pytest.skip("ipv6: this host has none")
    made = HealthServer(
        host=host,
        port=0,
        registry=CollectorRegistry(),
        probes=Probes(live=lambda: None, ready=lambda: None),
        page_url="",
    )
    made.start()
    try:
        with urlopen(f"http://[::1]:{made.port}/healthz", timeout=PATIENCE_SECONDS) as answer:
            assert answer.status == 200
    finally:
        made.close()
