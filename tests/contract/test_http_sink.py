"""The http sink against real servers on loopback."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from domain.payload import HttpPayload
from integration.services.webhook import RunningWebhook
from sinks.backends.http import (
    MAX_ANSWER_BYTES,
    MAX_RETRY_AFTER_SECONDS,
    HttpSinkConfig,
    join,
    retry_after_seconds,
)
from sinks.base import ConfigError, Delivery, PermanentError, SinkError, TransientError
from sinks.lane import build_lane
from sinks.lane_queue import OutcomeKind
from sinks.registry import SinkContext
from tests.contract.sinks.http import build as sink
from tests.support.http_server import Server, answer, serving
from tests.support.lanes import Collector, deliver, entries_of

SOON_SECONDS = 5.0


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as started:
        yield started


def delivery(number: int = 0, **fields: Any) -> Delivery:
    fields = fields or {"json": {"n": number}}
    return Delivery(
        payload=HttpPayload(sink="web", **fields),
        delivery_id=f"main/t/0/{number}/1/0/collect/0",
        topic="t",
        partition=0,
        offset=number,
        traceparent="00-aa-bb-01",
    )


def test_a_payload_is_one_request_with_its_delivery_id(server: Server) -> None:
    sender = sink(f"{server.url}hook?key=1", headers={"X-Api-Key": "k", "X-B": "config"})
    sender.open()
    payload = delivery(7, json={"a": [1]}, path="x y/z", headers={"x-b": "own"})
    deliver(sender, [payload])
    opening, request = server.requests
    assert (opening.method, opening.path, opening.body) == ("OPTIONS", "/hook?key=1", b"")
    assert not {"x-api-key", "idempotency-key"} & set(opening.headers)
    assert (request.method, request.path) == ("POST", "/hook/x%20y/z?key=1")
    assert request.body == b'{"a":[1]}'
    assert request.headers["idempotency-key"] == payload.delivery_id
    assert request.headers["content-type"] == "application/json"
    assert request.headers["traceparent"] == "00-aa-bb-01"
    assert (request.headers["x-api-key"], request.headers["x-b"]) == ("k", "own")


def test_the_demos_receiver_counts_what_is_delivered(webhook_server: RunningWebhook) -> None:
    deliver(sink(webhook_server.url), [delivery(n, json=n, path="counted") for n in (1, 2)])
    got = [entry for entry in webhook_server.received() if entry["path"] == "/counted"]
    assert [entry["body"] for entry in got] == [1, 2]
    assert [entry["idempotency_key"] for entry in got] == [delivery(n).delivery_id for n in (1, 2)]


def test_bytes_go_as_they_are_and_connections_are_kept(server: Server) -> None:
    sender = sink(server.url, method="PUT")
    server.reply(answer(200, "Set-Cookie: a=b", body=b"thanks"), answer(204))
    deliver(sender, [delivery(1, body=b"\x00\xff"), delivery(2, body=b"", path="p")])
    deliver(sender, [delivery(3, json=None, headers={"Content-Type": "text/plain"})])
    assert [request.body for request in server.requests] == [b"\x00\xff", b"", b"null"]
    assert {request.method for request in server.requests} == {"PUT"}
    assert {request.connection for request in server.requests} == {0}
    assert not any("cookie" in request.headers for request in server.requests)
    types = [request.headers["content-type"] for request in server.requests]
    assert types == ["application/octet-stream", "application/octet-stream", "text/plain"]


def test_an_idempotency_key_is_always_a_legal_header(server: Server) -> None:
    odd = Delivery(
        payload=HttpPayload(sink="web", json=1),
        delivery_id="main/t/key:ä\r\nX: y\ud800%",
        topic="t",
        partition=0,
        offset=0,
    )
    deliver(sink(server.url), [odd])
    assert (
        server.requests[0].headers["idempotency-key"] == "main/t/key:%C3%A4%0D%0AX: y%ED%A0%80%25"
    )


@pytest.mark.parametrize("status", [400, 403, 503])
def test_an_error_names_the_host_and_no_secret(status: int, server: Server) -> None:
    server.reply(answer(status, body=b"because token=abc of it"))
    with pytest.raises(SinkError, match=f"POST {server.url[:-1]}: {status}") as caught:
        deliver(sink(f"{server.url}secret/path"), [delivery()])
    assert "because" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "abc" not in str(caught.value)


def test_refused_payloads_are_named_and_the_others_stored(server: Server) -> None:
    server.reply(answer(200), answer(422), answer(200))
    with pytest.raises(PermanentError) as caught:
        deliver(sink(server.url), [delivery(n) for n in range(3)])
    assert caught.value.bad_indices == (1,)
    assert len(server.requests) == 3


def test_what_was_stored_before_an_illness_is_named(server: Server) -> None:
    server.reply(answer(200), answer(400), answer(503))
    with pytest.raises(TransientError) as caught:
        deliver(sink(server.url), [delivery(n) for n in range(4)])
    assert caught.value.stored_indices == (0,)
    assert len(server.requests) == 3


NOW = datetime(2026, 1, 1, tzinfo=UTC)
WISHES = {
    "17": 17.0,
    "-1": None,
    "9" * 5000: MAX_RETRY_AFTER_SECONDS,
    format_datetime(NOW + timedelta(seconds=30), usegmt=True): 30.0,
    format_datetime(NOW - timedelta(days=1), usegmt=True): 0.0,
    format_datetime(NOW + timedelta(days=1), usegmt=True): MAX_RETRY_AFTER_SECONDS,
    "soon": None,
    None: None,
}


@pytest.mark.parametrize(("value", "seconds"), WISHES.items(), ids=range(len(WISHES)))
def test_retry_after_is_read_and_bounded(value: str | None, seconds: float | None) -> None:
    assert retry_after_seconds(value, NOW) == seconds


def test_retry_after_reaches_the_lane(server: Server) -> None:
    server.reply(answer(429, "Retry-After: 12"))
    with pytest.raises(TransientError) as caught:
        deliver(sink(server.url), [delivery()])
    assert caught.value.retry_after_seconds == 12.0


@pytest.mark.parametrize(
    "fields",
    [
        {"json": object()},
        {"json": {"a": [1.0, float("nan")]}},
        {"json": 1, "path": "../up"},
        {"json": 1, "path": "a/./b"},
        {"json": 1, "path": "a\\b"},
        {"json": 1, "path": "a\r\nb"},
        {"json": 1, "path": "\ud800"},
        {"json": 1, "headers": {"Host": "other"}},
        {"json": 1, "headers": {"Idempotency-KEY": "mine"}},
        {"json": 1, "headers": {"X": "a\r\nY: b"}},
        {"json": 1, "headers": {"X": "\u20ac"}},
    ],
)
def test_a_payload_that_cannot_be_sent_is_a_data_error(
    fields: dict[str, Any], server: Server
) -> None:
    with pytest.raises(PermanentError):
        deliver(sink(server.url), [delivery(1, **fields)])
    assert server.requests == []


@given(st.text(max_size=40) | st.text("./\\?#@:%a", max_size=20))
def test_no_path_leads_out_of_the_url(path: str) -> None:
    base = "https://user@host:81/a/b?k=1"
    try:
        url = join(base, path)
    except ValueError:
        return
    prepared = requests.Request("POST", url).prepare().url or ""
    parts = urlsplit(prepared)
    assert (parts.scheme, parts.netloc, parts.query) == ("https", "user@host:81", "k=1")
    assert parts.path.startswith("/a/b")


def test_paths_stay_under_the_url() -> None:
    assert join("http://h/a/", "/b c?d#e%2e%2e") == "http://h/a/b%20c%3Fd%23e%252e%252e"
    assert join("http://h", "//evil.example/x") == "http://h/evil.example/x"
    assert join("http://h", "http://evil.example/") == "http://h/http://evil.example/"
    assert join("http://h/a?k=1", "") == "http://h/a?k=1"


@pytest.mark.parametrize(
    "keys",
    [
        {"url": "ftp://h/"},
        {"url": "http:///x"},
        {"url": "http://h:99999/"},
        {"url": "http://h/#f"},
        {"url": "http://h/", "headers": {"HOST": "x"}},
        {"url": "http://h/", "method": "GET"},
        {"url": "http://h/", "concurrency": 0},
    ],
)
def test_a_bad_section_is_refused(keys: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        HttpSinkConfig(kind="http", **keys)


def test_concurrency_is_a_session_a_thread() -> None:
    config = HttpSinkConfig(kind="http", url="http://h/", concurrency=7)
    assert (config.lane_threads, config.max_batch) == (7, 1)


def test_loopback_needs_permission(server: Server) -> None:
    for url in (server.url, f"http://localhost:{server.port}/", f"http://2130706433:{server.port}"):
        sender = sink(url, allow_private=False)
        with pytest.raises(ConfigError, match="allow_private permits it"):
            sender.open()
        with pytest.raises(ConfigError, match="allow_private permits it"):
            deliver(sender, [delivery()])
    assert server.requests == []


@pytest.mark.parametrize("host", ["169.254.169.254", "[fe80::1]", "100.100.100.200"])
def test_metadata_services_are_refused_whatever_the_section_says(host: str) -> None:
    with pytest.raises(ConfigError, match=r"metadata|link-local"):
        deliver(sink(f"http://{host}/latest"), [delivery()])


def test_a_name_that_changes_its_address_gains_nothing(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each connection resolves once and goes to the address that was checked."""
    answers = iter(["127.0.0.1", "169.254.169.254"])
    asked: list[str] = []

    def rebind(host: str, port: int, **_: Any) -> list[Any]:
        asked.append(host)
        kind = socket.SOCK_STREAM
        return [(socket.AF_INET, kind, 6, "", (next(answers), port))]

    monkeypatch.setattr(socket, "getaddrinfo", rebind)
    sender = sink(f"http://rebind.example:{server.port}/")
    server.reply(answer(200, "Connection: close"))
    deliver(sender, [delivery(1)])
    assert asked == ["rebind.example"]
    assert server.requests[0].headers["host"] == f"rebind.example:{server.port}"
    with pytest.raises(ConfigError, match="link-local"):
        deliver(sender, [delivery(2)])
    assert len(asked) == 2


def test_only_the_permitted_addresses_of_a_name_are_tried(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first is refused, at the second nobody listens, the third serves."""
    addresses = ["169.254.169.254", "127.0.0.2", "127.0.0.1"]

    def resolve(host: str, port: int, **_: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port)) for one in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    deliver(sink(f"http://several.example:{server.port}/"), [delivery()])
    assert len(server.requests) == 1
    addresses.pop()
    with pytest.raises(TransientError, match="refused"):
        deliver(sink(f"http://several.example:{server.port}/"), [delivery()])


def test_a_resolver_that_hangs_has_the_same_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: ended.wait(60) and [])
    started = time.monotonic()
    with pytest.raises(TransientError, match="resolver"):
        deliver(sink("http://slow.example/", timeout_seconds=0.2), [delivery()])
    assert time.monotonic() - started < SOON_SECONDS
    ended.set()


def test_a_lane_sends_several_at_once(server: Server) -> None:
    """Four requests wait for each other; fewer at once would never end."""
    together = threading.Barrier(4, timeout=SOON_SECONDS)

    def meet(connection: socket.socket) -> None:
        together.wait()
        connection.sendall(answer(200, "Connection: close"))

    async def scenario() -> list[OutcomeKind]:
        config = HttpSinkConfig(kind="http", url=server.url, allow_private=True)
        context = SinkContext(cluster="c", name="web", source_brokers="", source_client={})
        lane = build_lane(config, context, None)
        lane.start()
        owner = Collector(4)
        for entry in entries_of(owner, [delivery(n) for n in range(4)]):
            await lane.submit([entry])
        kinds = await owner.wait()
        assert await lane.close(SOON_SECONDS)
        return kinds

    server.decide = lambda request: meet if request.method == "POST" else answer(200)
    assert asyncio.run(scenario()) == [OutcomeKind.DELIVERED] * 4


@pytest.mark.parametrize("status", [307, 308])
def test_a_redirect_is_followed_with_method_and_body(status: int, server: Server) -> None:
    server.reply(answer(status, "Location: /there?x=1", body=b"y" * 10))
    deliver(sink(f"{server.url}here", method="PUT", headers={"X-Api-Key": "k"}), [delivery()])
    first, second = server.requests
    assert (second.method, second.path, second.body) == ("PUT", "/there?x=1", first.body)
    assert second.headers["idempotency-key"] == first.headers["idempotency-key"]
    assert second.headers["x-api-key"] == "k"


def test_another_origin_does_not_get_the_configured_headers(server: Server) -> None:
    with serving() as other:
        server.reply(answer(307, f"Location: {other.url}"))
        deliver(sink(server.url, headers={"Authorization": "secret"}), [delivery()])
        (request,) = other.requests
        assert "authorization" not in request.headers
        assert request.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("location", "text"),
    [
        ("http://169.254.169.254/latest", "link-local"),
        ("http://[::ffff:169.254.169.254]/", "link-local"),
        ("file:///etc/passwd", "not followed"),
        ("http://[bad/", "no URL"),
        ("http://127.0.0.1:999999/", "no URL"),
    ],
)
def test_a_redirect_leads_nowhere_that_is_refused(location: str, text: str, server: Server) -> None:
    server.reply(answer(307, f"Location: {location}"))
    with pytest.raises(ConfigError, match=text):
        deliver(sink(server.url), [delivery()])


@pytest.mark.parametrize("status", [200, 307, 401, 404, 500])
def test_any_answer_to_options_opens_the_sink(status: int, server: Server) -> None:
    server.reply(answer(status, "Location: http://169.254.169.254/"))
    sink(server.url).open()
    assert [request.method for request in server.requests] == ["OPTIONS"]


def test_the_sixth_redirect_is_not_followed(server: Server) -> None:
    server.reply(*[answer(307, "Location: /again")] * 10)
    with pytest.raises(ConfigError, match="more than 5 redirects"):
        deliver(sink(server.url), [delivery()])
    assert len(server.requests) == 6


def _trickle(prefix: bytes, ended: threading.Event) -> Any:
    def reply(connection: socket.socket) -> None:
        connection.sendall(prefix)
        with suppress(OSError):
            while not ended.wait(0.05):
                connection.sendall(b"x")

    return reply


def _never(ended: threading.Event) -> Any:
    return lambda connection: ended.wait(60)


@pytest.mark.parametrize("prefix", [b"HTTP/1.1 200 ", b"HTTP/1.1 200 OK\r\nX: ", None])
def test_a_trickling_or_silent_server_has_one_budget(prefix: bytes | None, server: Server) -> None:
    server.reply(_never(server.ended) if prefix is None else _trickle(prefix, server.ended))
    started = time.monotonic()
    with pytest.raises(TransientError, match="time"):
        deliver(sink(server.url, timeout_seconds=0.5), [delivery()])
    assert time.monotonic() - started < SOON_SECONDS


@pytest.mark.parametrize("status", [200, 500])
def test_a_trickling_body_does_not_outlast_the_budget(status: int, server: Server) -> None:
    head = f"HTTP/1.1 {status} R\r\nContent-Length: 900\r\n\r\n".encode()
    server.reply(_trickle(head, server.ended))
    started = time.monotonic()
    sender = sink(server.url, timeout_seconds=0.5)
    if status == 200:
        deliver(sender, [delivery()])
    else:
        with pytest.raises(TransientError, match="500"):
            deliver(sender, [delivery()])
    assert time.monotonic() - started < SOON_SECONDS
    deliver(sender, [delivery()])
    assert [request.connection for request in server.requests] == [0, 1]


def test_a_body_without_end_is_not_read(server: Server) -> None:
    sent = []

    def flood(connection: socket.socket) -> None:
        with suppress(OSError):
            connection.sendall(b"HTTP/1.1 400 R\r\n\r\n")
            for _ in range(1000):
                connection.sendall(b"z" * MAX_ANSWER_BYTES)
                sent.append(1)

    server.reply(flood)
    with pytest.raises(PermanentError) as caught:
        deliver(sink(server.url), [delivery()])
    assert len(str(caught.value)) < 400
    assert len(sent) < 1000


def test_a_redirects_body_is_bounded_too(server: Server) -> None:
    def flood(connection: socket.socket) -> None:
        with suppress(OSError):
            connection.sendall(b"HTTP/1.1 307 R\r\nLocation: /next\r\n\r\n")
            while not server.ended.is_set():
                connection.sendall(b"z" * MAX_ANSWER_BYTES)

    server.reply(flood)
    started = time.monotonic()
    deliver(sink(server.url), [delivery()])
    assert time.monotonic() - started < SOON_SECONDS


def test_a_receiver_that_takes_nothing_in_has_one_budget() -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        started = time.monotonic()
        sender = sink(f"http://127.0.0.1:{deaf.getsockname()[1]}/", timeout_seconds=0.5)
        with pytest.raises(TransientError):
            deliver(sender, [delivery(1, body=b"b" * 50_000_000)])
        assert time.monotonic() - started < SOON_SECONDS


@pytest.mark.parametrize(
    "reply", [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nX: " + b"h" * 99999]
)
def test_a_broken_answer_is_transient(reply: bytes, server: Server) -> None:
    def close(connection: socket.socket) -> None:
        connection.sendall(reply)
        connection.shutdown(socket.SHUT_RDWR)

    server.reply(close)
    with pytest.raises(TransientError):
        deliver(sink(server.url), [delivery()])


def test_a_closed_port_and_an_unknown_name_are_transient() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    for url in (f"http://127.0.0.1:{port}/", "http://no-such-host.invalid/"):
        with pytest.raises(TransientError):
            sink(url).open()
        with pytest.raises(TransientError):
            deliver(sink(url), [delivery()])


def test_it_gives_up_in_time(server: Server) -> None:
    """Also when another thread of the lane, with a sink of its own, made the first attempt."""
    server.reply(answer(503), answer(503))
    with pytest.raises(TransientError):
        deliver(sink(server.url, give_up_after_seconds=0.2), [delivery(1)])
    time.sleep(0.2)  # the time that has to pass is what is tested
    with pytest.raises(PermanentError, match=r"gave up after .* 503"):
        deliver(sink(server.url, give_up_after_seconds=0.2), [delivery(1), delivery(2)])


def test_it_gives_up_nothing_stored(server: Server) -> None:
    """A batch partly stored is named as such first."""
    server.reply(answer(503), answer(200), answer(503), answer(503))
    sender = sink(server.url, give_up_after_seconds=1e-6)
    with pytest.raises(TransientError):
        deliver(sender, [delivery(2)])
    with pytest.raises(TransientError) as caught:
        deliver(sender, [delivery(1), delivery(2)])
    assert caught.value.stored_indices == (0,)
    with pytest.raises(PermanentError, match="gave up"):
        deliver(sender, [delivery(2)])


def test_success_ends_the_count(server: Server) -> None:
    sender = sink(server.url, give_up_after_seconds=0.001)
    for _ in range(2):
        server.reply(answer(503), answer(200))
        with pytest.raises(TransientError):
            deliver(sender, [delivery(5)])
        deliver(sender, [delivery(5)])


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of 127.0.0.1, signed by itself, with its key."""
    import ipaddress

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    plain = serialization.NoEncryption()
    path.write_bytes(made.public_bytes(encoding) + key.private_bytes(encoding, form, plain))
    return path


def _tls(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


def test_an_unknown_certificate_waits_for_an_operator(certificate: Path) -> None:
    with serving(_tls(certificate)) as server, pytest.raises(ConfigError, match="TLS"):
        deliver(sink(server.url), [delivery()])


def test_a_trusted_certificate_serves_and_keeps_the_budget(certificate: Path) -> None:
    with serving(_tls(certificate)) as server:
        sender = sink(server.url, ca_file=str(certificate), timeout_seconds=1.0)
        deliver(sender, [delivery(1), delivery(2, body=b"b" * 500_000)])
        assert [request.connection for request in server.requests] == [0, 0]
        server.reply(_trickle(b"HTTP/1.1 200 OK\r\nX: ", server.ended))
        started = time.monotonic()
        with pytest.raises(TransientError, match="time"):
            deliver(sender, [delivery(3)])
        assert time.monotonic() - started < SOON_SECONDS
