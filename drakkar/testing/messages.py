"""Messages for a test: written in it, or recorded by ``drakkar record``."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from domain.message import Header, Message, Record


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenMessage:
    """A message that a handler is to be run with.

    ``topic`` None: that of the configuration. ``offset`` None: the next one of its partition.
    ``timestamp_ms`` is the record's time since the epoch.
    """

    value: bytes | None
    key: bytes | None = None
    headers: Sequence[Header] = ()
    topic: str | None = None
    partition: int = 0
    offset: int | None = None
    timestamp_ms: int = 0


def message(
    value: Any = None,
    *,
    key: str | bytes | None = None,
    headers: Mapping[str, str | bytes | None] | None = None,
    partition: int = 0,
    offset: int | None = None,
    timestamp_ms: int = 0,
) -> GivenMessage:
    """Make a message. ``value``: bytes and text as they are, None for no value, a pydantic model or
    anything else as JSON."""
    return GivenMessage(
        value=_encoded(value),
        key=key.encode() if isinstance(key, str) else key,
        headers=[
            (name, text.encode() if isinstance(text, str) else text)
            for name, text in (headers or {}).items()
        ],
        partition=partition,
        offset=offset,
        timestamp_ms=timestamp_ms,
    )


def _encoded(value: Any) -> bytes | None:
    if value is None or isinstance(value, bytes):
        return value
    if isinstance(value, BaseModel):
        return value.model_dump_json().encode()
    return (value if isinstance(value, str) else json.dumps(value)).encode()


def load(path: str | Path) -> list[GivenMessage]:
    """Read messages that ``drakkar record`` wrote: JSON lines, as docs/testing-a-handler.md says.

    Raises OSError, or ValueError naming file and line of what is none.
    """
    lines = Path(path).read_text(encoding="utf-8").split("\n")
    found = []
    for number, line in enumerate(lines, 1):
        try:
            if line.strip():
                found.append(_read(json.loads(line)))
        except (AttributeError, KeyError, TypeError, ValueError) as exc:
            expected = "a message as `drakkar record` writes it"
            raise ValueError(f"{path}, line {number}: expected {expected}, got {exc!r}") from exc
    return found


def _read(line: Mapping[str, Any]) -> GivenMessage:
    return GivenMessage(
        value=_bytes(line, "value"),
        key=_bytes(line, "key"),
        headers=[(header["name"], _bytes(header, "value")) for header in line["headers"]],
        topic=str(line["topic"]),
        partition=int(line["partition"]),
        offset=int(line["offset"]),
        timestamp_ms=int(line["timestamp_ms"]),
    )


def _bytes(fields: Mapping[str, Any], name: str) -> bytes | None:
    """Return the text of a field, or what ``<field>_base64`` holds; null is None."""
    if f"{name}_base64" in fields:
        return base64.b64decode(fields[f"{name}_base64"], validate=True)
    text: str | None = fields[name]
    return None if text is None else text.encode()


def records(messages: Iterable[GivenMessage], topic: str) -> list[Record]:
    """Return the messages as records of that topic, each with its offset.

    Raises ValueError for two at one place, and for none at all.
    """
    found: dict[tuple[int, int], Record] = {}
    following: dict[int, int] = {}
    for given in messages:
        offset = following.get(given.partition, 0) if given.offset is None else given.offset
        place = (given.partition, offset)
        if place in found:
            raise ValueError(f"messages: expected one at {given.partition}:{offset}, got two")
        following[given.partition] = max(following.get(given.partition, 0), offset + 1)
        found[place] = Message(
            topic=topic,
            partition=given.partition,
            offset=offset,
            key=given.key,
            value=given.value,
            headers=given.headers,
            timestamp=given.timestamp_ms,
            payload=None,
        )
    if not found:
        raise ValueError("messages: expected one or more, got none")
    return list(found.values())
