"""What a handler asks to be delivered: one class per sink kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

Json = Any
"""A JSON value: None, bool, int, float, str, list or dict of the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Payload:
    """Base of all payloads.

    ``sink`` is the configured sink's name. ``delivery_key`` replaces the position in the topic as
    identity, for payloads of fan-in tasks and whole batches.
    """

    kind: ClassVar[str] = ""

    sink: str
    delivery_key: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaPayload(Payload):
    """A record; text and JSON values are encoded as UTF-8. A None value is a tombstone."""

    kind: ClassVar[str] = "kafka"

    value: bytes | str | Json = None
    key: bytes | str | None = None
    headers: Mapping[str, bytes | str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Upsert:
    """``INSERT ... ON CONFLICT (keys) DO UPDATE`` of ``columns`` (default: all but the keys)."""

    keys: Sequence[str]
    columns: Sequence[str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresPayload(Payload):
    """A row; ``table`` overrides the sink's table."""

    kind: ClassVar[str] = "postgres"

    row: Mapping[str, Any]
    table: str | None = None
    on_conflict: Literal["nothing"] | Upsert | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MongoPayload(Payload):
    """A document; ``_id`` is the delivery id unless the document has one."""

    kind: ClassVar[str] = "mongo"

    document: Mapping[str, Any]
    collection: str | None = None
    op: Literal["upsert", "insert", "update"] = "upsert"
    key: Mapping[str, Any] | None = None


RedisOp = Literal[
    "set", "delete", "expire", "hset", "hdel", "sadd", "srem", "zadd", "push", "trim", "incr"
]


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisPayload(Payload):
    """One command on one key."""

    kind: ClassVar[str] = "redis"

    key: str
    value: Any = None
    ttl_seconds: int | None = None
    op: RedisOp = "set"


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpPayload(Payload):
    """A request body, as JSON or as bytes; ``path`` is appended to the sink's URL."""

    kind: ClassVar[str] = "http"

    json: Json = None
    body: bytes | None = None
    path: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class FilePayload(Payload):
    """A JSON line appended to ``path`` under the sink's base path."""

    kind: ClassVar[str] = "file"

    path: str
    record: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPayload(Payload):
    """A value kept in process memory, for probes and tests."""

    kind: ClassVar[str] = "memory"

    value: Any = None
