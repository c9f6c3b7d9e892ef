"""No request is long past a bound, nor is any long in coming.

Twisted writes each body to disk before anybody is asked who sends it, and Django once more. Its
time to wait for a request begins anew with each byte, so that one byte a minute would hold a
connection for ever.
"""

from __future__ import annotations

from typing import Any

from daphne import http_protocol

from drakkar_site.pacing import Paced

MAX_BODY_BYTES = 4 * 1024 * 1024
"""More than any form of ours; Django itself reads no form above 2.5 MB."""
REQUEST_SECONDS = 30.0
"""For the head and the body of a request; also how long a connection rests between two."""
TOO_LARGE = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class _Bounded(Paced):
    _is_refused = False

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        # Twisted would read forms itself, in the loop's thread: one of 4 MiB takes a second.
        self._parsePOSTFormSubmission = False

    def gotLength(self, length: int | None) -> None:  # noqa: N802 - Twisted's name
        too_long = (length or 0) > MAX_BODY_BYTES
        super().gotLength(0 if too_long else length)
        if too_long:
            self._refuse()

    def handleContentChunk(self, data: bytes) -> None:  # noqa: N802 - Twisted's name
        if not self._is_refused and self.content.tell() + len(data) > MAX_BODY_BYTES:
            self._refuse()
        if not self._is_refused:
            super().handleContentChunk(data)

    def process(self) -> Any:
        if not self._is_refused and not self.path.startswith(b"/"):  # "*", "host:port", a whole URL
            self.basic_error(400, b"Bad Request", "Expected a target that begins with /")
        elif not self._is_refused:
            return super().process()
        return None

    def _refuse(self) -> None:
        self._is_refused = True
        self.channel.transport.write(TOO_LARGE)
        self.channel.loseConnection()


_build = http_protocol.HTTPFactory.buildProtocol


def _with_a_deadline(factory: Any, address: Any) -> Any:
    """A connection that has to say all of a request in time."""
    protocol = _build(factory, address)
    protocol.timeOut = REQUEST_SECONDS
    protocol._channel.resetTimeout = _go_on
    return protocol


def _go_on() -> None:
    """Let the time run that began with the connection, or with the end of the last answer."""


def bound_bodies() -> None:
    """Have daphne make requests of ours; it looks the class up with each connection."""
    http_protocol.WebRequest = _Bounded
    http_protocol.HTTPFactory.buildProtocol = _with_a_deadline
