"""Rows into a table by binary COPY, on Django's own connection; the model says where and what.

A row of Postgres' binary form is the number of its columns, then each value behind its length in
bytes; NULL has the length -1.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any
from uuid import UUID

import orjson
from django.db import connections, models, router

Encode = Callable[[Any], bytes]
"""A value as its length and bytes. Raises TypeError, OverflowError or struct.error for one that
the column cannot hold."""
HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER = b"\xff\xff"
NULL = b"\xff\xff\xff\xff"
EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
"""Of Postgres' times, which are microseconds."""
MICROSECOND = timedelta(microseconds=1)
_LENGTH = struct.Struct(">i")


def _number(form: str, size: int) -> Encode:
    pack = struct.Struct(f">i{form}").pack
    return lambda value: pack(size, value)


_bigint = _number("q", 8)


def _time(value: datetime) -> bytes:
    return _bigint((value - EPOCH) // MICROSECOND)


def _bytes(value: bytes) -> bytes:
    return _LENGTH.pack(len(value)) + value


def _uuid(value: UUID) -> bytes:
    return _bytes(value.bytes)


def _text(value: str) -> bytes:
    if not isinstance(value, str):
        raise TypeError(f"expected a text, got {type(value).__name__}")
    return _bytes(value.encode())


def _json(value: Any) -> bytes:
    """JSON text as it is, mappings and lists as JSON; before it the version of its binary form."""
    if isinstance(value, str):
        return _bytes(b"\x01" + value.encode())
    text = orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS)
    return _bytes(b"\x01" + text)


ENCODERS: Mapping[str, Encode] = {
    "integer": _number("i", 4),
    "bigint": _bigint,
    "double precision": _number("d", 8),
    "timestamp with time zone": _time,
    "uuid": _uuid,
    "varchar": _text,
    "text": _text,
    "jsonb": _json,
    "bytea": _bytes,
}
"""By the type of the column."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Columns of a table that COPY fills, in order."""

    statement: str
    begin: bytes
    encoders: tuple[tuple[str, Encode], ...]


@cache
def columns_of(model: type[models.Model]) -> Columns:
    """All columns but the key, which the database counts up."""
    fields = [field for field in model._meta.concrete_fields if not field.primary_key]
    types = [
        str(field.db_type(connections[router.db_for_write(model)])).partition("(")[0]
        for field in fields
    ]
    listed = ", ".join(f'"{field.column}"' for field in fields)
    return Columns(
        statement=f"COPY {model._meta.db_table} ({listed}) FROM STDIN (FORMAT BINARY)",
        begin=struct.Struct(">h").pack(len(fields)),
        encoders=tuple(
            (field.name, ENCODERS[kind]) for field, kind in zip(fields, types, strict=True)
        ),
    )


def copy_rows(model: type[models.Model], rows: Sequence[Mapping[str, Any]]) -> None:
    """COPY rows in; a column that a row does not have is NULL.

    Raises DatabaseError, and OverflowError, ValueError or TypeError for what a column cannot hold.
    """
    columns = columns_of(model)
    connection = connections[router.db_for_write(model)]
    body = [HEADER, *(part for row in rows for part in _encoded(row, columns)), TRAILER]
    with (
        connection.cursor() as cursor,
        connection.wrap_database_errors,
        cursor.copy(columns.statement) as copy,
    ):
        copy.write(b"".join(body))


def _encoded(row: Mapping[str, Any], columns: Columns) -> list[bytes]:
    get = row.get
    parts = [columns.begin]
    try:
        for name, encode in columns.encoders:
            value = get(name)
            parts.append(NULL if value is None else encode(value))
    except struct.error as exc:
        raise OverflowError(f"{name}: {value!r:.100}: {exc}") from exc
    return parts
