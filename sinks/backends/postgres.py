"""Sink kind ``postgres``: rows of a table; one transaction a batch, one connection a lane
thread."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, ClassVar

import psycopg
from psycopg import sql
from psycopg.abc import RV, PQGen
from psycopg.pq import TransactionStatus
from psycopg.types.json import Jsonb
from pydantic import Field

from domain.payload import PostgresPayload, Upsert
from sinks.base import ConfigError, Delivery, PermanentError, SinkError, TransientError
from sinks.config import SinkConfig
from sinks.registry import SinkContext, SinkKind, register

# SQLSTATE classes and codes (PostgreSQL manual, appendix A). What stands in no table is transient.
PERMANENT_CLASSES = ("21", "22", "23", "44", "54", "P0")
CONFIG_CLASSES = ("28", "3D", "3F", "42", "0A")
# Of class 42, what the row brings on: syntax (a row without columns), column, type, cast, operator.
PERMANENT_CODES = frozenset({"42601", "42703", "42804", "42846", "42883"})
# A refused connection has no SQLSTATE in libpq; these words of the server and of libpq are config.
REFUSED_CONNECTION = (
    "does not exist",
    "authentication failed",
    "no password supplied",
    "no pg_hba.conf entry",
    "is not permitted to log in",
    "permission denied",
    "does not support SSL",
    "certificate",
)
GRACE_SECONDS = 1.0
"""How much longer the client waits than the server, so that the server's own word comes first."""

LEDGER = """
CREATE TABLE IF NOT EXISTS drakkar_deliveries (
    delivery_id text PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT now()
)
"""

ARRAY_COLUMNS = """
SELECT attname FROM pg_attribute JOIN pg_type ON pg_type.oid = atttypid
WHERE attrelid = %s::regclass AND attnum > 0 AND typcategory = 'A'
"""


class PostgresSinkConfig(SinkConfig):
    """Keys of a postgres sink. ``dedup`` keeps a ledger of delivery ids in the same transaction."""

    dsn: str = Field(min_length=1)
    table: str = Field(min_length=1, max_length=127, pattern=r"^\w+(\.\w+)?$")
    pool_max: int = Field(5, ge=1, le=64)
    dedup: bool = False

    @property
    def lane_threads(self) -> int:
        """One connection a thread."""
        return self.pool_max


def translate(error: psycopg.Error) -> SinkError:
    """The driver's error in our words, by SQLSTATE."""
    state = error.sqlstate or ""
    detail = f"{state} {error}".strip()
    if state in PERMANENT_CODES or state.startswith(PERMANENT_CLASSES):
        return PermanentError(detail)
    if state.startswith(CONFIG_CLASSES):
        return ConfigError(f"{detail}; check the sink's dsn, table and grants")
    if not state and isinstance(error, (psycopg.DataError, psycopg.ProgrammingError)):
        return PermanentError(detail)
    return TransientError(detail)


def translate_refusal(error: psycopg.Error) -> SinkError:
    """Why a connection could not be made: never the data's fault."""
    detail = str(error).strip()
    is_config = isinstance(error, psycopg.ProgrammingError)  # a DSN that libpq cannot read
    if is_config or any(words in detail for words in REFUSED_CONNECTION):
        return ConfigError(f"{detail}; check the sink's dsn and the server's pg_hba.conf")
    return TransientError(detail)


class BoundedConnection(psycopg.Connection[Any]):
    """A connection that gives up an answer at ``give_up_at`` (monotonic), and itself with it.

    A server that is frozen keeps its sockets open and its own timeouts do not run. All waits of a
    batch share the time: many statements that are each quick enough are not together.
    """

    give_up_at: float

    def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:
        """See ``psycopg.Connection.wait``. Raises OperationalError when the time is over."""
        try:
            return super().wait(gen, interval, max(0.0, self.give_up_at - time.monotonic()))
        except psycopg.OperationalError:
            if self.pgconn.transaction_status == TransactionStatus.ACTIVE:
                self.pgconn.finish()  # else the rollback would wait for the same answer
            raise


class PostgresSink:
    """See the module's docstring."""

    kind: ClassVar[str] = "postgres"

    def __init__(self, config: PostgresSinkConfig, context: SinkContext) -> None:
        self._config = config
        self._connection: BoundedConnection | None = None
        self._arrays: dict[str, frozenset[str]] = {}

    def open(self) -> None:
        """Connect and look for the table. Raises TransientError or ConfigError."""
        try:
            connection = self._connected()
            with connection.transaction():
                connection.execute(
                    sql.SQL("SELECT 1 FROM {} LIMIT 0").format(_identifier(self._config.table))
                )
                if self._config.dedup:
                    connection.execute(LEDGER)
        except psycopg.Error as exc:
            self._drop()
            raise translate(exc) from exc

    def deliver(self, batch: Sequence[Delivery]) -> None:
        """Store the batch in one transaction; see ``Sink.deliver``."""
        try:
            connection = self._connected()
            with connection.transaction(), connection.pipeline():
                fresh = self._fresh(connection, batch) if self._config.dedup else batch
                for statement, rows in self._statements(connection, fresh):
                    with connection.cursor() as cursor:
                        cursor.executemany(statement, rows)
        except psycopg.Error as exc:
            error = translate(exc)
            self._arrays.clear()
            if not isinstance(error, PermanentError):
                self._drop()
            raise error from exc
        except UnicodeError as exc:
            raise PermanentError(f"not encodable: {exc}") from exc

    def close(self) -> None:
        """Close the connection."""
        self._drop()

    def _connected(self) -> BoundedConnection:
        """A connection with the time of one batch before it. Raises SinkError."""
        if self._connection is None or self._connection.closed:
            try:
                self._connection = self._connect()
            except psycopg.Error as exc:
                raise translate_refusal(exc) from exc
        self._connection.give_up_at = time.monotonic() + self._whole_seconds + GRACE_SECONDS
        return self._connection

    @property
    def _whole_seconds(self) -> int:
        """The timeout as libpq and the server take it."""
        return max(1, int(self._config.timeout_seconds))

    def _connect(self) -> BoundedConnection:
        timeout = self._whole_seconds
        return BoundedConnection.connect(
            self._config.dsn,
            connect_timeout=timeout,
            autocommit=True,
            options=f"-c statement_timeout={timeout * 1000} -c lock_timeout={timeout * 1000}",
            keepalives_idle=timeout,
            tcp_user_timeout=timeout * 1000,
            application_name="drakkar-sink",
        )

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _fresh(
        self, connection: BoundedConnection, batch: Sequence[Delivery]
    ) -> Sequence[Delivery]:
        """Those of the batch that the ledger did not hold yet; it holds them now."""
        ids = [delivery.delivery_id for delivery in batch]
        rows = connection.execute(
            "INSERT INTO drakkar_deliveries (delivery_id) SELECT DISTINCT unnest(%s::text[]) "
            "ON CONFLICT DO NOTHING RETURNING delivery_id",
            [ids],
        ).fetchall()
        new = {row[0] for row in rows}
        fresh = []
        for delivery in batch:
            if delivery.delivery_id in new:
                new.discard(delivery.delivery_id)
                fresh.append(delivery)
        return fresh

    def _statements(
        self, connection: BoundedConnection, batch: Sequence[Delivery]
    ) -> Iterator[tuple[sql.Composed, list[list[Any]]]]:
        """Neighbours of the same shape in one statement, in order."""
        for (table, columns, conflict), group in groupby(batch, key=self._shape):
            rows = [_row(delivery) for delivery in group]
            lists = any(isinstance(value, list) for row in rows for value in row.values())
            arrays = self._array_columns(connection, table) if lists else frozenset()
            values = [[_adapted(row[name], name in arrays) for name in columns] for row in rows]
            yield _insert(table, columns, conflict), values

    def _array_columns(self, connection: BoundedConnection, table: str) -> frozenset[str]:
        """Columns of an array type; a list for any other column is JSON."""
        if table not in self._arrays:
            found = connection.execute(ARRAY_COLUMNS, [_identifier(table).as_string(connection)])
            self._arrays[table] = frozenset(row[0] for row in found)
        return self._arrays[table]

    def _shape(self, delivery: Delivery) -> tuple[str, tuple[str, ...], Any]:
        payload = delivery.payload
        assert isinstance(payload, PostgresPayload)
        conflict: Any = payload.on_conflict
        if isinstance(conflict, Upsert):
            columns = None if conflict.columns is None else tuple(conflict.columns)
            conflict = (tuple(conflict.keys), columns)
        return payload.table or self._config.table, tuple(payload.row), conflict


def _row(delivery: Delivery) -> Mapping[str, Any]:
    assert isinstance(delivery.payload, PostgresPayload)
    return delivery.payload.row


def _adapted(value: Any, is_array: bool) -> Any:
    if isinstance(value, list) and is_array:
        return [_adapted(item, isinstance(item, list)) for item in value]
    return Jsonb(value) if isinstance(value, (dict, list, Mapping)) else value


def _identifier(name: str) -> sql.Identifier:
    return sql.Identifier(*name.split("."))


def _insert(table: str, columns: tuple[str, ...], conflict: Any) -> sql.Composed:
    names = sql.SQL(", ").join(map(sql.Identifier, columns))
    marks = sql.SQL(", ").join([sql.Placeholder()] * len(columns))
    statement = sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(_identifier(table), names, marks)
    if conflict is None:
        return statement
    if conflict == "nothing":
        return statement + sql.SQL(" ON CONFLICT DO NOTHING")
    keys, updated = conflict
    updated = updated if updated is not None else [name for name in columns if name not in keys]
    target = sql.SQL(", ").join(map(sql.Identifier, keys))
    if not updated:
        return statement + sql.SQL(" ON CONFLICT ({}) DO NOTHING").format(target)
    sets = sql.SQL(", ").join(
        sql.SQL("{0} = EXCLUDED.{0}").format(sql.Identifier(name)) for name in updated
    )
    return statement + sql.SQL(" ON CONFLICT ({}) DO UPDATE SET {}").format(target, sets)


KIND = register(
    SinkKind(
        name="postgres", config=PostgresSinkConfig, payload=PostgresPayload, build=PostgresSink
    )
)
