"""A Kafka record as the handler sees it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

PayloadT = TypeVar("PayloadT")

MAX_CONTENT_BYTES = 192 * 1024
"""Of a key, a value, or one header's content that a person writes into a form."""

Header = tuple[str, bytes | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Message(Generic[PayloadT]):
    """One record of the source topic.

    ``timestamp`` is the record time in milliseconds since the epoch. ``key`` and ``value`` are the
    record's bytes, untouched. ``payload`` is what ``Handler.parse`` made of them.
    """

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[Header]
    timestamp: int
    payload: PayloadT

    @property
    def size_bytes(self) -> int:
        """Bytes charged against the back-pressure budget: key, value and header values."""
        size = len(self.key or b"") + len(self.value or b"")
        for name, value in self.headers:
            size += len(name) + len(value or b"")
        return size

    def header(self, name: str) -> str | None:
        """Return the last header of that name as text, or None; undecodable bytes are replaced."""
        for key, value in reversed(self.headers):
            if key == name and value is not None:
                return value.decode("utf-8", "replace")
        return None


Record = Message[None]
"""A message before ``parse``."""
