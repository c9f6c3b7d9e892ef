"""Sink kind ``memory``: keeps payloads in this process, by delivery id. For probes and tests."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import ClassVar

from domain.payload import MemoryPayload
from sinks.base import Delivery
from sinks.config import SinkConfig
from sinks.registry import SinkContext, SinkKind

STORES: defaultdict[str, list[Delivery]] = defaultdict(list)
"""Deliveries that each sink of that name stored, in order, duplicates included."""


class MemorySink:
    """Stores everything."""

    kind: ClassVar[str] = "memory"

    def __init__(self, config: SinkConfig, context: SinkContext) -> None:
        self._store = STORES[context.name]

    def open(self) -> None:
        """Nothing to open."""

    def encode(self, delivery: Delivery) -> Delivery:
        """Keep the payload as it is."""
        return delivery

    def send(self, batch: Sequence[Delivery]) -> None:
        """Keep the batch."""
        self._store.extend(batch)

    def close(self) -> None:
        """Leave what is stored."""


KIND = SinkKind(name="memory", config=SinkConfig, payload=MemoryPayload, build=MemorySink)
