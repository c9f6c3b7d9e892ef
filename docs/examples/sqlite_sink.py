"""A sink kind of one's own: rows of an SQLite file, each delivery id once.

``kind: docs.examples.sqlite_sink:KIND`` in a sink's section is all it takes.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import Field

from drakkar import Payload
from drakkar.sinks import (
    ConfigError,
    Delivery,
    NotJson,
    PermanentError,
    SinkConfig,
    SinkContext,
    SinkError,
    SinkKind,
    TransientError,
    UnknownError,
    encode_json,
    repetition_id,
)

TABLE = "CREATE TABLE IF NOT EXISTS deliveries (delivery_id TEXT PRIMARY KEY, record TEXT)"
# What stands in neither table is unknown: the lane finds out whose fault it is.
TRANSIENT = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_INTERRUPT,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
    }
)
CONFIG = frozenset(
    {
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_READONLY,
    }
)

Row = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class SqlitePayload(Payload):
    """A record, stored as JSON."""

    kind: ClassVar[str] = "sqlite"

    record: Mapping[str, Any]


class SqliteSinkConfig(SinkConfig):
    """Keys of an sqlite sink, besides those of every sink."""

    path: str = Field(min_length=1)


def translate(error: sqlite3.Error) -> SinkError:
    """The driver's error in the lane's words."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in CONFIG:
        return ConfigError(str(error))
    return TransientError(str(error)) if code in TRANSIENT else UnknownError(str(error))


class SqliteSink:
    """One connection; one transaction a batch. A repetition changes nothing."""

    kind: ClassVar[str] = "sqlite"

    def __init__(self, config: SqliteSinkConfig, context: SinkContext) -> None:
        self._config = config
        self._connection: sqlite3.Connection | None = None

    def open(self) -> None:
        """Open the file and make the table. Raises TransientError or ConfigError."""
        try:
            self._connected().execute(TABLE)
        except sqlite3.Error as exc:
            raise translate(exc) from exc

    def encode(self, delivery: Delivery) -> Row:
        """The row of a payload. Raises PermanentError naming what is no JSON."""
        payload = delivery.payload
        assert isinstance(payload, SqlitePayload)
        try:
            return repetition_id(delivery), encode_json(payload.record, "record").decode()
        except NotJson as exc:
            raise PermanentError(str(exc)) from exc

    def send(self, batch: Sequence[Row]) -> None:
        """Store the batch or nothing of it; see ``Sink.send``."""
        try:
            with self._connected() as connection:
                connection.executemany("INSERT OR IGNORE INTO deliveries VALUES (?, ?)", batch)
        except sqlite3.Error as exc:
            raise translate(exc) from exc

    def close(self) -> None:
        """Close the file."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            timeout = self._config.timeout_seconds
            self._connection = sqlite3.connect(self._config.path, timeout=timeout)
        return self._connection


KIND = SinkKind(name="sqlite", config=SqliteSinkConfig, payload=SqlitePayload, build=SqliteSink)
