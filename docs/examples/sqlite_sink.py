"""A sink kind of one's own: rows of an SQLite file, each delivery id once.

``kind: docs.examples.sqlite_sink:KIND`` in a sink's section is all it takes.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import Field

from domain.payload import Payload
from sinks.base import ConfigError, Delivery, PermanentError, SinkError, TransientError
from sinks.config import SinkConfig
from sinks.registry import SinkContext, SinkKind

TABLE = "CREATE TABLE IF NOT EXISTS deliveries (delivery_id TEXT PRIMARY KEY, record TEXT)"
# What stands in no table (a lock, a full disk) is transient.
CONFIG = frozenset(
    {
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_READONLY,
    }
)


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
    return ConfigError(str(error)) if code in CONFIG else TransientError(str(error))


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

    def deliver(self, batch: Sequence[Delivery]) -> None:
        """Store the batch or nothing of it; see ``Sink.deliver``."""
        rows = [(one.delivery_id, _json(one.payload)) for one in batch]
        try:
            with self._connected() as connection:
                connection.executemany("INSERT OR IGNORE INTO deliveries VALUES (?, ?)", rows)
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


def _json(payload: Payload) -> str:
    assert isinstance(payload, SqlitePayload)
    try:
        return json.dumps(payload.record, allow_nan=False)
    except (TypeError, ValueError) as exc:
        raise PermanentError(f"record: not encodable: {exc}") from exc


KIND = SinkKind(name="sqlite", config=SqliteSinkConfig, payload=SqlitePayload, build=SqliteSink)
