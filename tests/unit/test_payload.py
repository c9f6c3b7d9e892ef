"""A payload tells what is wrong with its fields where it is made."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Any

import pytest

from domain.payload import (
    FilePayload,
    HttpPayload,
    KafkaPayload,
    MemoryPayload,
    MongoPayload,
    Payload,
    PostgresPayload,
    RedisPayload,
    Upsert,
)

WRONG: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "MemoryPayload.sink": (MemoryPayload, {"sink": None}),
    "MemoryPayload.delivery_key": (MemoryPayload, {"sink": "s", "delivery_key": 7}),
    "MemoryPayload.delivery_key: expected 1 to 2000 characters, got 0": (
        MemoryPayload,
        {"sink": "s", "delivery_key": ""},
    ),
    "MemoryPayload.delivery_key: expected 1 to 2000 characters, got 2001": (
        MemoryPayload,
        {"sink": "s", "delivery_key": "k" * 2001},
    ),
    "MemoryPayload.delivery_key: expected no NUL": (
        MemoryPayload,
        {"sink": "s", "delivery_key": "a\0b"},
    ),
    "KafkaPayload.delivery_key: expected no NUL and lone surrogates": (
        KafkaPayload,
        {"sink": "s", "delivery_key": "\ud800"},
    ),
    "PostgresPayload.table: expected a name": (
        PostgresPayload,
        {"sink": "s", "row": {}, "table": ""},
    ),
    "MongoPayload.collection: expected a name": (
        MongoPayload,
        {"sink": "s", "document": {}, "collection": ""},
    ),
    "KafkaPayload.key": (KafkaPayload, {"sink": "s", "key": 5}),
    "KafkaPayload.headers": (KafkaPayload, {"sink": "s", "headers": [("a", b"b")]}),
    "KafkaPayload.headers: expected text": (KafkaPayload, {"sink": "s", "headers": {"a": 1}}),
    "PostgresPayload.row": (PostgresPayload, {"sink": "s", "row": [1]}),
    "PostgresPayload.row: expected columns": (PostgresPayload, {"sink": "s", "row": {1: 2}}),
    "PostgresPayload.table": (PostgresPayload, {"sink": "s", "row": {}, "table": b"t"}),
    "PostgresPayload.on_conflict": (
        PostgresPayload,
        {"sink": "s", "row": {}, "on_conflict": "update"},
    ),
    "Upsert.keys": (Upsert, {"keys": "id"}),
    "Upsert.keys: expected a list": (Upsert, {"keys": []}),
    "Upsert.columns": (Upsert, {"keys": ["id"], "columns": "name"}),
    "MongoPayload.document": (MongoPayload, {"sink": "s", "document": "d"}),
    "MongoPayload.collection": (MongoPayload, {"sink": "s", "document": {}, "collection": 1}),
    "MongoPayload.key": (MongoPayload, {"sink": "s", "document": {}, "key": ["a"]}),
    "MongoPayload.op": (MongoPayload, {"sink": "s", "document": {}, "op": "delete"}),
    "RedisPayload.key": (RedisPayload, {"sink": "s", "key": 5}),
    "RedisPayload.ttl_seconds": (RedisPayload, {"sink": "s", "key": "k", "ttl_seconds": "1"}),
    "RedisPayload.ttl_seconds: expected 1": (
        RedisPayload,
        {"sink": "s", "key": "k", "ttl_seconds": 0},
    ),
    "RedisPayload.ttl_seconds: expected whole": (
        RedisPayload,
        {"sink": "s", "key": "k", "ttl_seconds": True},
    ),
    "RedisPayload.op": (RedisPayload, {"sink": "s", "key": "k", "op": "flushall"}),
    "HttpPayload.body": (HttpPayload, {"sink": "s", "body": "text"}),
    "HttpPayload.path": (HttpPayload, {"sink": "s", "path": 5}),
    "HttpPayload.headers": (HttpPayload, {"sink": "s", "headers": None}),
    "HttpPayload.headers: expected text": (HttpPayload, {"sink": "s", "headers": {"X": 5}}),
    "HttpPayload: expected json or body": (HttpPayload, {"sink": "s", "json": 1, "body": b"x"}),
    "FilePayload.path": (FilePayload, {"sink": "s", "path": None, "record": {}}),
    "FilePayload.record": (FilePayload, {"sink": "s", "path": "p", "record": [1]}),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_field_of_another_type_is_named(name: str) -> None:
    make, fields = WRONG[name]
    with pytest.raises((TypeError, ValueError)) as caught:
        make(**fields)
    assert str(caught.value).startswith(name)


class Color(StrEnum):
    """Text that is an enum's, as handlers hand it over."""

    RED = "red"


class Mute:
    """An object that cannot be shown."""

    def __repr__(self) -> str:
        raise RuntimeError("no words")


def test_text_of_a_subclass_is_text() -> None:
    payloads: list[Payload] = [
        RedisPayload(sink="s", key=Color.RED),
        FilePayload(sink="s", path=Color.RED, record={Color.RED: Color.RED}),
        KafkaPayload(sink="s", key=Color.RED, headers={"a": None, "b": b"", Color.RED: Color.RED}),
        PostgresPayload(sink="s", row={}, on_conflict=Upsert(keys=(Color.RED,), columns=())),
    ]
    assert len(payloads) == 4


def test_what_cannot_be_shown_is_named_by_its_type() -> None:
    with pytest.raises(TypeError, match=r"RedisPayload\.key: expected text, got Mute$"):
        RedisPayload(sink="s", key=Mute())  # type: ignore[arg-type]
