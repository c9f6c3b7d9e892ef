"""Sink kind ``postgres``: rows of a table; one transaction a batch, one connection a lane
thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from functools import partial
from itertools import groupby
from time import monotonic
from typing import Any, ClassVar
from uuid import UUID

import psycopg
from psycopg import sql
from psycopg.abc import RV, PQGen
from psycopg.adapt import PyFormat, Transformer
from psycopg.pq import TransactionStatus
from psycopg.types.json import Jsonb
from pydantic import BaseModel, Field, field_validator

from domain.payload import PostgresPayload, Upsert
from sinks.base import (
    ConfigError,
    Delivery,
    PermanentError,
    SinkError,
    TransientError,
    UnknownError,
    refusal,
)
from sinks.config import SinkConfig
from sinks.delivery_ledger import ADD_SCOPES, keep_up, make_ledger, remember
from sinks.json_form import NotJson, encode_json
from sinks.postgres_dsn import split_dsn
from sinks.registry import SinkContext, SinkKind

# SQLSTATE classes and codes (PostgreSQL manual, appendix A). What stands in no table is unknown.
PERMANENT_CLASSES = ("21", "22", "23", "44", "54", "P0")
CONFIG_CLASSES = ("28", "3D", "3F", "42", "0A", "55000")
TRANSIENT_CLASSES = ("08", "25", "40", "53", "55", "57", "58", "XX")
# Of class 42, what the row brings on: syntax (a row without columns), column, one that the server
# makes itself, type, cast, operator.
PERMANENT_CODES = frozenset({"42601", "42703", "428C9", "42804", "42846", "42883"})
# Prepared statements that are not there, or there already: a pooler stands between.
POOLED_STATEMENT = frozenset({"26000", "42P05"})
# What may come of a statement or type read before the table changed, and not of the row: a bound
# value's length or form, a cached plan, a column's type, name, cast or operator.
STALE_CODES = ("08P01", "0A000", "22", "42703", "42804", "42846", "42883", "42P18")
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
MAX_NAME_BYTES = 63
"""Of a table or column: the server cuts longer names off, and may find another of that start."""
GRACE_SECONDS = 1.0
"""Seconds that the client waits longer than the server, whose own word so comes first."""

BOUNDS = "SELECT set_config('statement_timeout', %s, true), set_config('lock_timeout', %s, true)"
"""Of one transaction only: the next one may have another server connection."""

ARRAY_COLUMNS = """
SELECT attname FROM pg_attribute JOIN pg_type ON pg_type.oid = atttypid
WHERE attrelid = %s::regclass AND attnum > 0 AND typcategory = 'A'
"""


class PostgresSinkConfig(SinkConfig):
    """Keys of a postgres sink. ``dedup`` keeps a ledger of delivery ids in the same transaction;
    it forgets an id after ``dedup_retention_days``."""

    dsn: str = Field(min_length=1)
    table: str = Field(min_length=1, max_length=127, pattern=r"^\w+(\.\w+)?$")
    pool_max: int = Field(5, ge=1, le=64)
    dedup: bool = False
    dedup_retention_days: int = Field(7, ge=1, le=3650)

    @field_validator("table")
    @classmethod
    def _has_short_names(cls, table: str) -> str:
        if any(len(part.encode()) > MAX_NAME_BYTES for part in table.split(".")):
            raise ValueError(f"expected names of at most {MAX_NAME_BYTES} bytes")
        return table

    @field_validator("dsn")
    @classmethod
    def _can_be_split(cls, dsn: str) -> str:
        split_dsn(dsn)
        return dsn

    @property
    def lane_threads(self) -> int:
        """One connection a thread."""
        return self.pool_max


def translate(error: psycopg.Error) -> SinkError:
    """Return the driver's error in our words, by SQLSTATE."""
    state = error.sqlstate or ""
    detail = f"{state} {error}".strip()
    if state in POOLED_STATEMENT or (state == "0A000" and "cached plan" in str(error)):
        return TransientError(detail)
    if state in PERMANENT_CODES or state.startswith(PERMANENT_CLASSES):
        return PermanentError(detail)
    if state.startswith(CONFIG_CLASSES):
        return ConfigError(f"{detail}; check the sink's dsn, table and grants")
    if not state and isinstance(error, (psycopg.DataError, psycopg.ProgrammingError)):
        return PermanentError(detail)
    is_away = not state and isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError))
    if is_away or state.startswith(TRANSIENT_CLASSES):
        return TransientError(detail)
    return UnknownError(detail)


def _may_be_stale(error: psycopg.Error) -> bool:
    return (error.sqlstate or "").startswith(STALE_CODES)


def translate_refusal(error: psycopg.Error) -> SinkError:
    """Why a connection could not be made: never the data's fault."""
    detail = str(error).strip()
    is_config = isinstance(error, psycopg.ProgrammingError)  # a DSN that libpq cannot read
    if is_config or any(words in detail for words in REFUSED_CONNECTION):
        return ConfigError(f"{detail}; check the sink's dsn and the server's pg_hba.conf")
    return TransientError(detail)


Shape = tuple[str, tuple[str, ...], Any]
"""Table, columns and what a conflict does: rows of one shape share a statement."""

Dump = Callable[[Any], None]
"""Asks the driver for the form of a value."""

SAFE_TYPES = frozenset({bool, bytes, float, date, time, timedelta, datetime, UUID, type(None)})
"""Types that the driver has a form for whatever the value."""


@dataclass(frozen=True, slots=True)
class ListValue:
    """A list for a column whose type only the server knows: an array, or JSON if it can be."""

    array: list[Any]
    json: Jsonb | PermanentError


@dataclass(frozen=True, slots=True)
class PlannedRow:
    """A row as the driver takes it, in the order of its shape's columns."""

    delivery_id: str
    shape: Shape
    values: list[Any]


class BoundedConnection(psycopg.Connection[Any]):
    """A connection that gives up an answer at ``give_up_at`` (monotonic), and itself with it.

    A server that is frozen keeps its sockets open and its own timeouts do not run. All waits of a
    batch share the time: many statements that are each quick enough are not together.
    """

    give_up_at: float

    def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:
        """Wait as ``psycopg.Connection.wait``. Raises OperationalError when the time is over."""
        try:
            return super().wait(gen, interval, max(0.0, self.give_up_at - monotonic()))
        except psycopg.OperationalError:
            if self.pgconn.transaction_status == TransactionStatus.ACTIVE:
                self.pgconn.finish()  # else the rollback would wait for the same answer
            raise


class PostgresSink:
    """Sink that writes payloads to Postgres (module's docstring)."""

    kind: ClassVar[str] = "postgres"

    def __init__(self, config: PostgresSinkConfig, context: SinkContext) -> None:
        self._config = config
        self._name = context.name
        self._connection: BoundedConnection | None = None
        self._leave_ledger: Callable[[], None] | None = None
        self._arrays: dict[str, frozenset[str]] = {}
        self._forms = Transformer()
        self._dsn, self._prepare_threshold = split_dsn(config.dsn)
        self._prepares = self._prepare_threshold is not None

    def open(self) -> None:
        """Connect and look for the table. Raises TransientError or ConfigError."""
        try:
            connection = self._connected()
            with connection.transaction():
                connection.execute(
                    sql.SQL("SELECT 1 FROM {} LIMIT 0").format(_identifier(self._config.table))
                )
        except psycopg.Error as exc:
            self._drop()
            raise translate(exc) from exc

    def encode(self, delivery: Delivery) -> PlannedRow:
        """Return the row of a payload. Raises PermanentError naming the column."""
        payload = delivery.payload
        assert isinstance(payload, PostgresPayload)
        conflict: Any = payload.on_conflict
        if isinstance(conflict, Upsert):
            columns = None if conflict.columns is None else tuple(conflict.columns)
            conflict = (tuple(conflict.keys), columns)
        shape = (payload.table or self._config.table, tuple(payload.row), conflict)
        _check_names(shape)
        dump = self._dump
        values = [_planned(name, value, dump) for name, value in payload.row.items()]
        return PlannedRow(delivery.delivery_id, shape, values)

    def send(self, batch: Sequence[PlannedRow]) -> None:
        """Store the batch in one transaction; see ``Sink.send``."""
        is_new = self._connection is None or self._connection.closed
        try:
            self._store(batch)
        except psycopg.Error as exc:
            self._prepares &= exc.sqlstate not in POOLED_STATEMENT
            if is_new or len(batch) > 1 or not _may_be_stale(exc):
                raise self._failed(exc) from exc
            # Narrowed to one row: what was prepared before the table changed may be to blame.
            self._drop()
            try:
                self._store(batch)
            except psycopg.Error as again:
                raise self._failed(again) from again
        except ConfigError:
            self._drop()
            raise

    def _store(self, batch: Sequence[PlannedRow]) -> None:
        connection = self._connected()
        with connection.transaction(), connection.pipeline():
            if not self._prepares:
                connection.execute(BOUNDS, [f"{self._whole_seconds}s"] * 2)
            fresh = self._fresh(connection, batch) if self._config.dedup else batch
            for statement, rows in self._statements(connection, fresh):
                with connection.cursor() as cursor:
                    cursor.executemany(statement, rows)

    def _failed(self, exc: psycopg.Error) -> SinkError:
        error = translate(exc)
        self._arrays.clear()
        if not isinstance(error, PermanentError):
            self._drop()
        return error

    def close(self) -> None:
        """Close the connection."""
        self._drop()
        if self._leave_ledger is not None:
            self._leave_ledger()
            self._leave_ledger = None

    def _dump(self, value: Any) -> None:
        self._forms.get_dumper(value, PyFormat.AUTO).dump(value)

    def _connected(self) -> BoundedConnection:
        """A connection with the time of one batch before it. Raises SinkError."""
        give_up_at = monotonic() + self._whole_seconds + GRACE_SECONDS
        if self._connection is None or self._connection.closed:
            try:
                self._connection = self._connect()
            except psycopg.Error as exc:
                raise translate_refusal(exc) from exc
            self._connection.give_up_at = give_up_at
            if self._config.dedup:
                self._keep_ledger(self._connection)
        self._connection.give_up_at = give_up_at
        return self._connection

    def _keep_ledger(self, connection: BoundedConnection) -> None:
        """Have a ledger that forgets what is old. Raises TransientError or ConfigError."""
        try:
            make_ledger(connection)
        except psycopg.Error as exc:
            self._drop()
            error = translate(exc)
            detail = f"drakkar_deliveries: {error}"
            if isinstance(exc, psycopg.errors.InsufficientPrivilege):
                detail += f"; its owner may run: {ADD_SCOPES}"
            is_config = isinstance(error, ConfigError)
            raise (ConfigError(detail) if is_config else TransientError(detail)) from exc
        if self._leave_ledger is None:
            dsn, days = self._dsn, self._config.dedup_retention_days
            self._leave_ledger = keep_up(dsn, days, partial(_connect_for_upkeep, dsn))

    @property
    def _whole_seconds(self) -> int:
        """Timeout as libpq and the server take it."""
        return max(1, int(self._config.timeout_seconds))

    def _connect(self) -> BoundedConnection:
        timeout = self._whole_seconds
        bounds = f"-c statement_timeout={timeout * 1000} -c lock_timeout={timeout * 1000}"
        is_pooled = self._prepare_threshold is None  # a pooler takes no options
        more: dict[str, Any] = {} if is_pooled else {"options": bounds}
        return BoundedConnection.connect(
            self._dsn,
            connect_timeout=timeout,
            autocommit=True,
            prepare_threshold=self._prepare_threshold if self._prepares else None,
            **more,
            keepalives_idle=timeout,
            tcp_user_timeout=timeout * 1000,
            application_name="drakkar-sink",
        )

    def _drop(self) -> None:
        self._arrays.clear()
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _fresh(
        self, connection: BoundedConnection, batch: Sequence[PlannedRow]
    ) -> Sequence[PlannedRow]:
        """Those of the batch that the ledger did not hold yet; it holds them now."""
        scoped = [(one.delivery_id, f"{self._name}/{one.shape[0]}") for one in batch]
        try:
            return [batch[place] for place in remember(connection, scoped)]
        except (psycopg.errors.UndefinedColumn, psycopg.errors.UndefinedTable) as exc:
            raise ConfigError(
                f"{exc.sqlstate} the ledger is gone or was made anew by an earlier release: {exc}; "
                "it is made with the next connection"
            ) from exc

    def _statements(
        self, connection: BoundedConnection, batch: Sequence[PlannedRow]
    ) -> Iterator[tuple[sql.Composed, list[list[Any]]]]:
        """Neighbours of the same shape in one statement, in order."""
        for (table, columns, conflict), group in groupby(batch, key=lambda one: one.shape):
            rows = [one.values for one in group]
            lists = any(isinstance(value, ListValue) for row in rows for value in row)
            arrays = self._array_columns(connection, table) if lists else frozenset()
            values = [
                [_settled(value, name in arrays) for name, value in zip(columns, row, strict=True)]
                for row in rows
            ]
            yield _insert(table, columns, conflict), values

    def _array_columns(self, connection: BoundedConnection, table: str) -> frozenset[str]:
        """Columns of an array type; a list for any other column is JSON."""
        if table not in self._arrays:
            found = connection.execute(ARRAY_COLUMNS, [_identifier(table).as_string(connection)])
            self._arrays[table] = frozenset(row[0] for row in found)
        return self._arrays[table]


def _connect_for_upkeep(dsn: str) -> psycopg.Connection[Any]:
    return psycopg.connect(
        dsn, autocommit=True, prepare_threshold=None, application_name="drakkar-ledger"
    )


def _settled(value: Any, is_array: bool) -> Any:
    """Return what the driver gets for a column. Raises PermanentError: a list that is no JSON."""
    if not isinstance(value, ListValue):
        return value
    if is_array:
        return value.array
    if isinstance(value.json, PermanentError):
        raise value.json
    return value.json


def _planned(column: str, value: Any, dump: Dump) -> Any:
    """A value as the driver takes it. Raises PermanentError naming the column."""
    field = f"row.{column}"
    if isinstance(value, (dict, Mapping, BaseModel)):
        return _json(value, field)
    if isinstance(value, list):
        return _planned_list(value, field, dump)
    if type(value) not in SAFE_TYPES:
        _try(dump, value, field)
    return value


def _planned_list(value: list[Any], field: str, dump: Dump) -> ListValue:
    array = _array(value)
    try:
        return ListValue(array, _json(value, field))
    except PermanentError as exc:
        _try(dump, array, field)
        return ListValue(array, exc)


def _array(value: list[Any]) -> list[Any]:
    """Documents in an array are JSON."""
    return [
        _array(item)
        if isinstance(item, list)
        else Jsonb(item, dumps=_dumped)
        if isinstance(item, (dict, Mapping))
        else item
        for item in value
    ]


def _dumped(value: Any) -> bytes:
    return encode_json(value, "row")


def _json(value: Any, field: str) -> Jsonb:
    try:
        return Jsonb(encode_json(value, field), dumps=bytes)
    except NotJson as exc:
        raise PermanentError(str(exc)) from exc


def _try(dump: Dump, value: Any, field: str) -> None:
    """Ask the driver for the value's form once, before anything is sent."""
    try:
        dump(value)
    except Exception as exc:  # whatever a handler's own objects raise
        raise refusal(field, exc) from exc


def _check_names(shape: Shape) -> None:
    """Raises PermanentError for names that no statement can hold, or that the server would cut."""
    table, columns, conflict = shape
    more = [] if conflict in (None, "nothing") else [*conflict[0], *(conflict[1] or ())]
    for field, names in (("row", columns), ("on_conflict", more)):
        for name in names:
            _check_name(field, name)
    for part in table.split("."):
        _check_name("table", part)


def _check_name(field: str, name: Any) -> None:
    if not isinstance(name, str) or not name or "\0" in name:
        raise PermanentError(f"{field}: expected names that are text, got {name!r:.100}")
    try:
        size = len(name.encode())
    except UnicodeEncodeError as exc:
        raise refusal(field, exc) from exc
    if size > MAX_NAME_BYTES:
        raise PermanentError(
            f"{field}: expected names of at most {MAX_NAME_BYTES} bytes, got {size}: {name!r:.100}"
        )


def _identifier(name: str) -> sql.Identifier:
    return sql.Identifier(*name.split("."))


def _in_statement(name: str) -> sql.Identifier:
    """A column in a statement with parameters, where the driver takes a percent sign for one."""
    return sql.Identifier(name.replace("%", "%%"))


def _insert(table: str, columns: tuple[str, ...], conflict: Any) -> sql.Composed:
    names = sql.SQL(", ").join(map(_in_statement, columns))
    marks = sql.SQL(", ").join([sql.Placeholder()] * len(columns))
    statement = sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
        _identifier(table.replace("%", "%%")), names, marks
    )
    if conflict is None:
        return statement
    if conflict == "nothing":
        return statement + sql.SQL(" ON CONFLICT DO NOTHING")
    keys, updated = conflict
    updated = updated if updated is not None else [name for name in columns if name not in keys]
    target = sql.SQL(", ").join(map(_in_statement, keys))
    if not updated:
        return statement + sql.SQL(" ON CONFLICT ({}) DO NOTHING").format(target)
    sets = sql.SQL(", ").join(
        sql.SQL("{0} = EXCLUDED.{0}").format(_in_statement(name)) for name in updated
    )
    return statement + sql.SQL(" ON CONFLICT ({}) DO UPDATE SET {}").format(target, sets)


KIND = SinkKind(
    name="postgres", config=PostgresSinkConfig, payload=PostgresPayload, build=PostgresSink
)
