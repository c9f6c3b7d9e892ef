"""Rows into a table by binary COPY, on Django's own connection; the model says the columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import orjson
from django.db import connection, models
from psycopg import adapters
from psycopg.adapt import Dumper
from psycopg.pq import Format

NARROW = 1 << 31
"""Bound of Postgres' ``integer``. The driver sends the lower half of one that is too long and says
nothing, so they are checked here; one too long for ``bigint`` it refuses."""


class JsonDumper(Dumper):
    """A value of a JSON column: JSON text as it is, mappings and lists as JSON."""

    format = Format.BINARY
    oid = adapters.types["jsonb"].oid

    def dump(self, obj: Any) -> bytes:
        """The version of the binary form, then the text."""
        if isinstance(obj, str):
            return b"\x01" + obj.encode()
        return b"\x01" + orjson.dumps(obj, default=str, option=orjson.OPT_NON_STR_KEYS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """What COPY fills of a table, in order; ``narrow`` are the places of the short integers."""

    statement: str
    names: tuple[str, ...]
    types: tuple[str, ...]
    narrow: tuple[int, ...]


@cache
def columns_of(model: type[models.Model]) -> Columns:
    """All columns but the key, which the database counts up."""
    fields = [field for field in model._meta.concrete_fields if not field.primary_key]
    types = [str(field.db_type(connection)).partition("(")[0] for field in fields]
    listed = ", ".join(f'"{field.column}"' for field in fields)
    return Columns(
        statement=f"COPY {model._meta.db_table} ({listed}) FROM STDIN (FORMAT BINARY)",
        names=tuple(field.name for field in fields),
        types=tuple(types),
        narrow=tuple(at for at, name in enumerate(types) if name == "integer"),
    )


def copy_rows(model: type[models.Model], rows: Sequence[Mapping[str, Any]]) -> None:
    """COPY rows in; a column that a row does not have is NULL.

    Raises DatabaseError, and OverflowError, ValueError or TypeError for what a column cannot hold.
    """
    columns = columns_of(model)
    with connection.cursor() as cursor, connection.wrap_database_errors:
        cursor.adapters.register_dumper(None, JsonDumper)
        with cursor.copy(columns.statement) as copy:
            copy.set_types(columns.types)
            for row in rows:
                copy.write_row(_values(row, columns))


def _values(row: Mapping[str, Any], columns: Columns) -> list[Any]:
    values = list(map(row.get, columns.names))
    for at in columns.narrow:
        value = values[at]
        if value is not None and not -NARROW <= value < NARROW:
            raise OverflowError(f"{columns.names[at]}: {value} is beyond 32 bits")
    return values
