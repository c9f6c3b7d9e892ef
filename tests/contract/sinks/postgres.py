"""Sink kind ``postgres`` on the embedded server: upserts, and plain inserts with the ledger."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import psycopg
from psycopg.conninfo import make_conninfo

from domain.payload import Payload, PostgresPayload, Upsert
from integration.services import postgres
from integration.services.ports import LOOPBACK
from sinks.backends.postgres import PostgresSink, PostgresSinkConfig
from sinks.base import ConfigError, PermanentError, Sink, SinkError, TransientError, UnknownError
from sinks.registry import SinkContext
from tests.contract.sinks.subject import (
    SINK,
    TIMEOUT_SECONDS,
    Case,
    Row,
    delivery,
    freeze,
    new_ids,
    thaw,
)
from tests.support.lanes import deliver
from tests.support.proxy import Proxy

SCHEMA = """
CREATE TABLE results (id text {constraint}, number int, data jsonb, tags text[]);
CREATE TABLE raising (state text);
CREATE FUNCTION raise_state() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'on purpose' USING ERRCODE = NEW.state;
END $$;
CREATE TRIGGER raising BEFORE INSERT ON raising FOR EACH ROW EXECUTE FUNCTION raise_state();
"""


class PostgresSubject:
    """Table ``results``; a row of table ``raising`` makes the server raise its ``state``."""

    reply_mark = b"COMMIT\0"

    def __init__(self, server: postgres.RunningPostgres, *, dedup: bool) -> None:
        self._server = server
        self._dedup = dedup
        self.stop = server.stop
        self.dsn = server.dsn
        _lock_a_role(server)
        with psycopg.connect(server.dsn) as connection:
            connection.execute(SCHEMA.format(constraint="" if dedup else "PRIMARY KEY").encode())

    def start(self) -> None:
        self._server.start()

    def freeze(self) -> None:
        """The postmaster, and the backends that serve connections."""
        freeze(self._processes())

    def thaw(self) -> None:
        thaw(self._processes())

    def _processes(self) -> list[psutil.Process]:
        postmaster = psutil.Process(self._server.pid)
        return [postmaster, *postmaster.children()]

    def build(self, proxy: Proxy | None = None, **keys: Any) -> Sink:
        dsn = self._server.dsn if proxy is None else postgres.database_url(proxy.port)
        section = {"kind": "postgres", "dsn": dsn, "table": "results", "dedup": self._dedup}
        section |= {"timeout_seconds": TIMEOUT_SECONDS, **keys}
        context = SinkContext(cluster="c", name=SINK, source_brokers="", source_client={})
        return PostgresSink(PostgresSinkConfig.model_validate(section), context)

    def payload(self, row: dict[str, Any], table: str | None = None) -> PostgresPayload:
        conflict = None if self._dedup or table else Upsert(keys=["id"])
        return PostgresPayload(sink=SINK, row=row, table=table, on_conflict=conflict)

    def good(self, delivery_id: str) -> Payload:
        return self.payload({"id": delivery_id, "number": 1})

    def bad(self, delivery_id: str) -> Payload:
        return self.payload({"id": delivery_id, "number": "not a number"})

    def unencodable(self, delivery_id: str, value: Any) -> Payload:
        return self.payload({"id": delivery_id, "data": {"x": value}})

    def stored(self) -> Counter[str]:
        with psycopg.connect(self._server.dsn) as connection:
            return Counter(row[0] for row in connection.execute("SELECT id FROM results"))

    def proxy(self) -> Proxy:
        return Proxy(LOOPBACK, self._server.port)

    def deliver(self, payload: Payload, **keys: Any) -> None:
        """One payload by a sink of its own. Raises SinkError."""
        (delivery_id,) = new_ids(1)
        sink = self.build(**keys)
        try:
            deliver(sink, [delivery(payload, delivery_id)])
        finally:
            sink.close()


def _lock_a_role(server: postgres.RunningPostgres) -> None:
    """The role ``locked`` needs a password; all others are trusted."""
    rules = server.launch.log_path.parent / "data" / "pg_hba.conf"
    rules.write_text(f"host all locked {LOOPBACK}/32 scram-sha-256\n{rules.read_text()}")
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        connection.execute("CREATE ROLE locked LOGIN PASSWORD 'right'")
        connection.execute("SELECT pg_reload_conf()")


def _raised(state: str, subject: PostgresSubject) -> None:
    subject.deliver(subject.payload({"state": state}, table="raising"))


def _opened(subject: PostgresSubject, **keys: Any) -> None:
    sink = subject.build(**keys)
    try:
        sink.open()
    finally:
        sink.close()


def _refused(keys: dict[str, str], subject: PostgresSubject) -> None:
    _opened(subject, dsn=make_conninfo(subject.dsn, **keys))


def _inserted(row: dict[str, Any], subject: PostgresSubject) -> None:
    subject.deliver(subject.payload(row))


def _elsewhere(table: str, subject: PostgresSubject) -> None:
    subject.deliver(subject.payload({"id": "x"}, table=table))


BY_STATE: dict[str, type[SinkError]] = {
    "21000": PermanentError,
    "22001": PermanentError,
    "22P02": PermanentError,
    "23505": PermanentError,
    "23514": PermanentError,
    "44000": PermanentError,
    "54000": PermanentError,
    "54011": PermanentError,
    "P0001": PermanentError,
    "42601": PermanentError,
    "42703": PermanentError,
    "42804": PermanentError,
    "42846": PermanentError,
    "42883": PermanentError,
    "28000": ConfigError,
    "3D000": ConfigError,
    "3F000": ConfigError,
    "42501": ConfigError,
    "42P01": ConfigError,
    "0A000": ConfigError,
    "08006": TransientError,
    "40001": TransientError,
    "40P01": TransientError,
    "53100": TransientError,
    "53300": TransientError,
    "55P03": TransientError,
    "57014": TransientError,
    "25006": TransientError,
    "26000": TransientError,
    "42P05": TransientError,
    "57P01": TransientError,
    "57P03": TransientError,
    "72000": UnknownError,
    "F0000": UnknownError,
    "58030": TransientError,
    "XX000": TransientError,
}

REFUSED = {
    "no such database": {"dbname": "none"},
    "no such role": {"user": "nobody"},
    "wrong password": {"user": "locked", "password": "wrong"},
    "no password": {"user": "locked"},
    "no TLS on the server": {"sslmode": "require"},
}

ROWS = (
    *(Row(state, expected, partial(_raised, state)) for state, expected in BY_STATE.items()),
    Row("text too large for its type", PermanentError, partial(_inserted, {"number": 2**40})),
    Row("NUL in a text", PermanentError, partial(_inserted, {"id": "a\0b"})),
    Row("lone surrogate", PermanentError, partial(_inserted, {"id": "\ud800"})),
    Row("a type the driver knows not", PermanentError, partial(_inserted, {"id": object()})),
    Row("unknown column of one row", PermanentError, partial(_inserted, {"id": "x", "none": 1})),
    Row("a row without columns", PermanentError, partial(_inserted, {})),
    Row("no such table of a payload", ConfigError, partial(_elsewhere, "missing")),
    Row("no such schema of a payload", ConfigError, partial(_elsewhere, "missing.results")),
    *(Row(name, ConfigError, partial(_refused, keys)) for name, keys in REFUSED.items()),
    Row("nobody listens", TransientError, partial(_refused, {"port": "1"})),
    Row("a host without an address", TransientError, partial(_refused, {"host": "h.invalid"})),
    Row("a DSN that is none", ConfigError, partial(_opened, dsn="nonsense")),
    Row("no such table at open", ConfigError, partial(_opened, table="missing")),
)


@contextmanager
def _start(folder: Path, *, dedup: bool) -> Iterator[PostgresSubject]:
    with postgres.running(folder) as server:
        yield PostgresSubject(server, dedup=dedup)


CASES = [
    Case(name="postgres-upsert", service="postgres", start=partial(_start, dedup=False), rows=ROWS),
    Case(name="postgres-dedup", service="postgres", start=partial(_start, dedup=True)),
]
