"""No body of a request is kept past a bound.

Twisted writes each to disk before anybody is asked who sends it, and Django once more.
"""

from __future__ import annotations

from typing import Any

from daphne import http_protocol

from drakkar_site.pacing import Paced

MAX_BODY_BYTES = 4 * 1024 * 1024
"""More than any form of ours; Django itself reads no form above 2.5 MB."""
TOO_LARGE = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class _Bounded(Paced):
    _is_refused = False

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
        return None if self._is_refused else super().process()

    def _refuse(self) -> None:
        self._is_refused = True
        self.channel.transport.write(TOO_LARGE)
        self.channel.loseConnection()


def bound_bodies() -> None:
    """Have daphne make requests of ours; it looks the class up with each connection."""
    http_protocol.WebRequest = _Bounded
