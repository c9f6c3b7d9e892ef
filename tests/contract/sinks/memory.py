"""Sink kind ``memory``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from domain.payload import MemoryPayload, Payload
from sinks.backends.memory import STORES, MemorySink
from sinks.base import Sink
from sinks.config import SinkConfig
from sinks.registry import SinkContext
from tests.contract.sinks.subject import SINK, Case
from tests.support.proxy import Proxy


class MemorySubject:
    """Refuses nothing and has no server."""

    def build(self, proxy: Proxy | None = None) -> Sink:
        context = SinkContext(cluster="c", name=SINK, source_brokers="", source_client={})
        return MemorySink(SinkConfig(kind="memory"), context)

    def good(self, delivery_id: str) -> Payload:
        return MemoryPayload(sink=SINK, value=delivery_id)

    def bad(self, delivery_id: str) -> Payload:
        raise LookupError("the memory sink refuses nothing")

    def unencodable(self, delivery_id: str, value: Any) -> Payload:
        raise LookupError("the memory sink encodes nothing")

    def stored(self) -> Counter[str]:
        return Counter(delivery.delivery_id for delivery in STORES[SINK])


@contextmanager
def _start(folder: Path) -> Iterator[MemorySubject]:
    yield MemorySubject()
    STORES[SINK].clear()


CASES = [Case(name="memory", start=_start, has_server=False, refuses=False, repeats=True)]
