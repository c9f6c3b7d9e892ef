"""Payloads that a handler asks to be delivered: one class per sink kind.

Each checks its fields where it is made, one level deep: TypeError or ValueError names the field,
what was expected and what came. What lies deeper its sink refuses when it encodes the payload.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")

Json = Any
"""A JSON value: None, bool, int, finite float, str, list or dict of the same; what else has a form:
docs/handler-guide.md."""
SHOWN_CHARS = 100
MAX_KEY_CHARACTERS = 2000
"""Of a ``delivery_key``: it becomes part of keys, headers and index entries."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Payload:
    """Base of all payloads.

    ``sink`` is the configured sink's name. ``delivery_key`` says what the payload is about: it
    replaces the source messages as identity, for what is to be stored once however they meet.
    """

    kind: ClassVar[str] = ""

    sink: str
    delivery_key: str | None = None

    def __post_init__(self) -> None:
        """Raise TypeError for fields of another type than they have."""
        self._expect("sink", str, "text")
        self._expect("delivery_key", (str, type(None)), "text or None")
        if self.delivery_key is not None:
            self._check_key(self.delivery_key)

    def _check_key(self, key: str) -> None:
        """An empty key would make one payload of all that have none."""
        where = f"{type(self).__name__}.delivery_key"
        if not 0 < len(key) <= MAX_KEY_CHARACTERS:
            raise ValueError(
                f"{where}: expected 1 to {MAX_KEY_CHARACTERS} characters, got {len(key)}"
            )
        if "\0" in key or _LONE_SURROGATE.search(key):
            raise ValueError(f"{where}: expected no NUL and lone surrogates, got {key!r:.100}")

    def _expect(self, name: str, types: type | tuple[type, ...], words: str) -> None:
        value = getattr(self, name)
        if not isinstance(value, types):
            raise TypeError(f"{type(self).__name__}.{name}: expected {words}, got {_shown(value)}")

    def _expect_texts(self, name: str, types: tuple[type, ...], words: str) -> None:
        """A mapping of text to ``types``."""
        self._expect(name, Mapping, "a mapping")
        for key, value in getattr(self, name).items():
            if not isinstance(key, str) or not isinstance(value, types):
                got = _shown(value if isinstance(key, str) else key)
                raise TypeError(f"{type(self).__name__}.{name}: expected {words}, got {got}")


def _shown(value: Any) -> str:
    """Type and start of a value, whatever its own words do."""
    try:
        return f"{type(value).__name__} {value!r:.{SHOWN_CHARS}}"
    except Exception:  # noqa: BLE001 - a handler's own objects may raise anything
        return type(value).__name__


def _expect_names(where: str, names: Any) -> None:
    is_list = isinstance(names, Sequence) and not isinstance(names, (str, bytes))
    if not is_list or not names or not all(isinstance(name, str) for name in names):
        raise TypeError(f"{where}: expected a list of names, got {_shown(names)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaPayload(Payload):
    """A record; text and JSON values are encoded as UTF-8. A None value is a tombstone."""

    kind: ClassVar[str] = "kafka"

    value: bytes | str | Json = None
    key: bytes | str | None = None
    headers: Mapping[str, bytes | str | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise TypeError for fields of another type than they have."""
        Payload.__post_init__(self)
        self._expect("key", (bytes, str, type(None)), "bytes, text or None")
        types = (bytes, str, type(None))
        self._expect_texts("headers", types, "text to bytes, text or None")


@dataclass(frozen=True, slots=True, kw_only=True)
class Upsert:
    """``INSERT ... ON CONFLICT (keys) DO UPDATE`` of ``columns`` (default: all but the keys)."""

    keys: Sequence[str]
    columns: Sequence[str] | None = None

    def __post_init__(self) -> None:
        """Raise TypeError for what is no list of names."""
        _expect_names("Upsert.keys", self.keys)
        if self.columns:
            _expect_names("Upsert.columns", self.columns)


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresPayload(Payload):
    """A row; ``table`` overrides the sink's table."""

    kind: ClassVar[str] = "postgres"

    row: Mapping[str, Any]
    table: str | None = None
    on_conflict: Literal["nothing"] | Upsert | None = None

    def __post_init__(self) -> None:
        """Raise TypeError or ValueError for fields of another type than they have."""
        Payload.__post_init__(self)
        self._expect_texts("row", (object,), "columns whose names are text")
        self._expect("table", (str, type(None)), "text or None")
        if self.table == "":
            raise ValueError("PostgresPayload.table: expected a name or None, got an empty text")
        if self.on_conflict not in (None, "nothing") and not isinstance(self.on_conflict, Upsert):
            got = _shown(self.on_conflict)
            raise ValueError(
                f"PostgresPayload.on_conflict: expected None, 'nothing' or Upsert, got {got}"
            )


MONGO_OPS = ("upsert", "insert", "update")


@dataclass(frozen=True, slots=True, kw_only=True)
class MongoPayload(Payload):
    """A document; ``_id`` is the delivery id unless the document has one."""

    kind: ClassVar[str] = "mongo"

    document: Mapping[str, Any]
    collection: str | None = None
    op: Literal["upsert", "insert", "update"] = "upsert"
    key: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        """Raise TypeError or ValueError for fields of another type than they have."""
        Payload.__post_init__(self)
        self._expect("document", Mapping, "a mapping")
        self._expect("collection", (str, type(None)), "text or None")
        if self.collection == "":
            raise ValueError("MongoPayload.collection: expected a name or None, got an empty text")
        self._expect("key", (Mapping, type(None)), "a mapping or None")
        if self.op not in MONGO_OPS:
            known = ", ".join(MONGO_OPS)
            raise ValueError(f"MongoPayload.op: expected one of {known}, got {_shown(self.op)}")


RedisOp = Literal[
    "set", "delete", "expire", "hset", "hdel", "sadd", "srem", "zadd", "push", "trim", "incr"
]
REDIS_OPS: tuple[str, ...] = get_args(RedisOp)


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisPayload(Payload):
    """One command on one key."""

    kind: ClassVar[str] = "redis"

    key: str
    value: Any = None
    ttl_seconds: int | None = None
    op: RedisOp = "set"

    def __post_init__(self) -> None:
        """Raise TypeError or ValueError for fields of another type than they have."""
        Payload.__post_init__(self)
        self._expect("key", str, "text")
        self._expect("ttl_seconds", (int, type(None)), "whole seconds or None")
        if isinstance(self.ttl_seconds, bool):
            raise TypeError("RedisPayload.ttl_seconds: expected whole seconds or None, got bool")
        if self.ttl_seconds is not None and self.ttl_seconds < 1:
            got = _shown(self.ttl_seconds)
            raise ValueError(f"RedisPayload.ttl_seconds: expected 1 or more, got {got}")
        if self.op not in REDIS_OPS:
            known = ", ".join(REDIS_OPS)
            raise ValueError(f"RedisPayload.op: expected one of {known}, got {_shown(self.op)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpPayload(Payload):
    """A request body, as JSON or as bytes; ``path`` is appended to the sink's URL."""

    kind: ClassVar[str] = "http"

    json: Json = None
    body: bytes | None = None
    path: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise TypeError or ValueError for fields of another type than they have."""
        Payload.__post_init__(self)
        self._expect("body", (bytes, type(None)), "bytes or None")
        self._expect("path", str, "text")
        self._expect_texts("headers", (str,), "text to text")
        if self.json is not None and self.body is not None:
            raise ValueError("HttpPayload: expected json or body, got both")


@dataclass(frozen=True, slots=True, kw_only=True)
class FilePayload(Payload):
    """A JSON line appended to ``path`` under the sink's base path."""

    kind: ClassVar[str] = "file"

    path: str
    record: Mapping[str, Any]

    def __post_init__(self) -> None:
        """Raise TypeError for fields of another type than they have."""
        Payload.__post_init__(self)
        self._expect("path", str, "text")
        self._expect("record", Mapping, "a mapping")


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPayload(Payload):
    """A value kept in process memory, for probes and tests."""

    kind: ClassVar[str] = "memory"

    value: Any = None
