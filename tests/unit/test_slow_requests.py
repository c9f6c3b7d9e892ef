"""A request that never ends is not waited for, however steadily it comes."""

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


@pytest.mark.parametrize("sent", [b"", HEAD, HEAD + b"\r\n"])
def test_each_byte_buys_no_time(sent: bytes, restored: None) -> None:
    bound_bodies()
    clock = Clock()
    ignored = {"protocol_connected": lambda _: None, "protocol_disconnected": lambda _: None}
    factory = http_protocol.HTTPFactory(SimpleNamespace(**ignored))
    factory.reactor = clock
    protocol = factory.buildProtocol(IPv4Address("TCP", "127.0.0.1", 1))
    transport: Any = StringTransport()  # type: ignore[no-untyped-call]
    protocol.makeConnection(transport)
    for byte in sent:
        protocol.dataReceived(bytes([byte]))
    for _ in range(int(REQUEST_SECONDS) - 1):
        clock.advance(1.0)
        protocol.dataReceived(b"x" if sent else b"")
    assert not transport.disconnecting
    clock.advance(2.0)
    assert transport.disconnecting
