"""A request that never ends is not waited for, and none is worked on in the loop's thread."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from daphne import http_protocol
from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from drakkar_site.bodies import REQUEST_SECONDS, bound_bodies

HEAD = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n"


@pytest.fixture
def restored() -> Iterator[None]:
    """Daphne's own classes again, afterwards."""
    kept = http_protocol.WebRequest, http_protocol.HTTPFactory.buildProtocol
    yield
    http_protocol.WebRequest, http_protocol.HTTPFactory.buildProtocol = kept


def ignored(*_: Any) -> None:
    """Answer nothing."""


def connected(clock: Clock, create_application: Any) -> tuple[Any, Any]:
    """A connection to a daphne of ours, and what it writes to."""
    bound_bodies()
    server = SimpleNamespace(
        protocol_connected=ignored,
        protocol_disconnected=ignored,
        create_application=create_application,
        proxy_forwarded_address_header=None,
        root_path="",
    )
    factory = http_protocol.HTTPFactory(server)
    factory.reactor = clock
    protocol = factory.buildProtocol(IPv4Address("TCP", "127.0.0.1", 1))
    transport: Any = StringTransport()  # type: ignore[no-untyped-call]
    protocol.makeConnection(transport)
    return protocol, transport


@pytest.mark.parametrize("sent", [b"", HEAD, HEAD + b"\r\n"])
def test_each_byte_buys_no_time(sent: bytes, restored: None) -> None:
    clock = Clock()
    protocol, transport = connected(clock, ignored)
    for byte in sent:
        protocol.dataReceived(bytes([byte]))
    for _ in range(int(REQUEST_SECONDS) - 1):
        clock.advance(1.0)
        protocol.dataReceived(b"x" if sent else b"")
    assert not transport.disconnecting
    clock.advance(2.0)
    assert transport.disconnecting


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/x-www-form-urlencoded", b"a=1&b=2"),
        (
            "multipart/form-data; boundary=x",
            b"--x\r\nContent-Disposition: form-data; name=a\r\n\r\n",
        ),
        ("multipart/form-data", b"no boundary"),
    ],
)
def test_no_form_is_read_before_the_view_asks(kind: str, body: bytes, restored: None) -> None:
    """Twisted reads one of 4 MiB in a second, in which no page and no socket is served."""
    asked: list[Any] = []
    protocol, transport = connected(Clock(), lambda request, _: asked.append(request))
    head = f"POST /login/ HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\n"
    protocol.dataReceived(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    assert [request.args for request in asked] == [{}]
    assert asked[0].content.getvalue() == body
    assert transport.value() == b""
