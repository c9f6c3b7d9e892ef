"""Content of a dead-lettered message, kept besides the letter in Kafka."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from domain.message import Header, Message
from domain.origin import MessageOrigin

LIMIT_BYTES = 64 * 1024
"""Bytes kept of the key, of the value and of all headers together."""
HEADER_BYTES = 32
"""Counted for each header beside its name and content: a record may hold many empty ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LetterContent:
    """Start of an original record. ``is_whole`` says that nothing was cut off.

    ``fingerprint`` is of the whole record; ``origin`` is the text of its ``MessageOrigin``, the
    same for a letter and the letters of its replays. ``labels`` are those of the letter's task;
    None: unknown."""

    key: bytes | None
    value: bytes | None
    headers: tuple[Header, ...]
    size_bytes: int
    is_whole: bool
    fingerprint: str
    origin: str
    labels: Mapping[str, str] | None = None

    @classmethod
    def of(
        cls, record: Message[Any], cluster: str, labels: Mapping[str, str] | None = None
    ) -> LetterContent:
        """Of a record as it was consumed by that cluster, with the labels of the task."""
        key, value = _start(record.key), _start(record.value)
        headers = tuple(_first(record.headers))
        is_whole = (key, value, len(headers)) == (record.key, record.value, len(record.headers))
        return cls(
            key=key,
            value=value,
            headers=headers,
            size_bytes=record.size_bytes,
            is_whole=is_whole,
            fingerprint=fingerprint(record.key, record.value, record.headers),
            origin=str(MessageOrigin.of(record, cluster)),
            labels=labels,
        )


def fingerprint(key: bytes | None, value: bytes | None, headers: Sequence[Header]) -> str:
    """SHA-256 over every part with its length, None told from empty; hexadecimal."""
    parts = [key, value]
    for name, content in headers:
        parts += [name.encode("utf-8", "surrogatepass"), content]
    digest = sha256()
    for part in parts:
        digest.update(b"-" if part is None else b"%d:" % len(part) + part)
    return digest.hexdigest()


def _start(part: bytes | None) -> bytes | None:
    return None if part is None else part[:LIMIT_BYTES]


def _first(headers: Sequence[Header]) -> Iterator[Header]:
    size = 0
    for name, content in headers:
        size += len(name) + len(content or b"") + HEADER_BYTES
        if size > LIMIT_BYTES:
            return
        yield name, content
