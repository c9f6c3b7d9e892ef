"""Sink kind ``http`` on the demo's webhook receiver; the table of answers on a scripted server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from domain.payload import HttpPayload, Payload
from integration.services import webhook
from integration.services.ports import LOOPBACK, free_port
from sinks.backends.http import HttpSink, HttpSinkConfig
from sinks.base import ConfigError, PermanentError, Sink, SinkError, TransientError
from sinks.registry import SinkContext
from tests.contract.sinks.subject import SINK, TIMEOUT_SECONDS, Case, Row, delivery, new_ids
from tests.support.http_server import answer, serving
from tests.support.lanes import deliver
from tests.support.proxy import Proxy


def build(url: str, **keys: Any) -> HttpSink:
    """A sink that sends to loopback."""
    section = {"kind": "http", "url": url, "allow_private": True, **keys}
    section = {"timeout_seconds": TIMEOUT_SECONDS, **section}
    context = SinkContext(cluster=url, name=SINK, source_brokers="", source_client={})
    return HttpSink(HttpSinkConfig.model_validate(section), context)


class HttpSubject:
    """The receiver refuses what is no JSON."""

    reply_mark = b"HTTP/1.1 200"

    def __init__(self, server: webhook.RunningWebhook) -> None:
        self._server = server
        self.freeze, self.thaw, self.stop = server.freeze, server.thaw, server.stop

    def start(self) -> None:
        self._server.start()

    def build(self, proxy: Proxy | None = None, **keys: Any) -> Sink:
        return build(self._server.url if proxy is None else f"http://{proxy.address}/", **keys)

    def good(self, delivery_id: str) -> Payload:
        return HttpPayload(sink=SINK, json={"id": delivery_id})

    def bad(self, delivery_id: str) -> Payload:
        return HttpPayload(sink=SINK, body=b"{")

    def unencodable(self, delivery_id: str, value: Any) -> Payload:
        return HttpPayload(sink=SINK, json={"x": value})

    def stored(self) -> Counter[str]:
        return Counter(entry["idempotency_key"] for entry in self._server.received())

    def proxy(self) -> Proxy:
        return Proxy(LOOPBACK, self._server.port)


STATUSES: dict[int, type[SinkError]] = {
    **dict.fromkeys((408, 421, 425, 429, 500, 501, 502, 503, 504, 599), TransientError),
    **dict.fromkeys((301, 302, 303, 304, 307, 308, 401, 403, 407), ConfigError),
    **dict.fromkeys((400, 402, 404, 405, 409, 410, 413, 422, 451), PermanentError),
}


def _answered(status: int, subject: HttpSubject) -> None:
    """A receiver that answers so. Raises SinkError."""
    (delivery_id,) = new_ids(1)
    with serving() as server:
        server.reply(answer(status, body=b"" if status == 304 else b"why"))
        deliver(build(server.url), [delivery(subject.good(delivery_id), delivery_id)])


@contextmanager
def _start(folder: Path) -> Iterator[HttpSubject]:
    with webhook.running(folder, free_port()) as server:
        yield HttpSubject(server)


ROWS = tuple(
    Row(str(status), expected, partial(_answered, status)) for status, expected in STATUSES.items()
)
CASES = [Case(name="http", start=_start, repeats=True, rows=ROWS)]
