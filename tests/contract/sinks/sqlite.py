"""The documented example of a plugin, held to the contract of all kinds."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from docs.examples.sqlite_sink import SqlitePayload, SqliteSink, SqliteSinkConfig
from domain.payload import Payload
from sinks.base import ConfigError, PermanentError, Sink, TransientError
from sinks.registry import SinkContext
from tests.contract.sinks.subject import SINK, Case, Row, delivery, new_ids
from tests.support.lanes import deliver
from tests.support.proxy import Proxy


class SqliteSubject:
    """One file; a record that is no JSON is refused."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "deliveries.db"

    def build(self, proxy: Proxy | None = None) -> Sink:
        return build(self.path)

    def good(self, delivery_id: str) -> Payload:
        return SqlitePayload(sink=SINK, record={"n": 1})

    def bad(self, delivery_id: str) -> Payload:
        return SqlitePayload(sink=SINK, record={"n": float("nan")})

    def unencodable(self, delivery_id: str, value: Any) -> Payload:
        return SqlitePayload(sink=SINK, record={"x": value})

    def stored(self) -> Counter[str]:
        with closing(sqlite3.connect(self.path)) as connection:
            rows = connection.execute("SELECT delivery_id FROM deliveries").fetchall()
        return Counter(row[0] for row in rows)


def build(path: Path) -> SqliteSink:
    config = SqliteSinkConfig(kind="sqlite", path=str(path), timeout_seconds=0.2)
    context = SinkContext(cluster="c", name=SINK, source_brokers="", source_client={})
    return SqliteSink(config, context)


def _refused(subject: SqliteSubject) -> None:
    deliver(subject.build(), [delivery(subject.bad("x"), "x")])


def _no_folder(subject: SqliteSubject) -> None:
    build(subject.folder / "missing" / "x.db").open()


def _no_database(subject: SqliteSubject) -> None:
    (subject.folder / "text").write_text("this is no database " * 100)
    with closing(build(subject.folder / "text")) as sink:
        sink.open()


def _locked(subject: SqliteSubject) -> None:
    with closing(subject.build()) as sink, closing(sqlite3.connect(subject.path)) as other:
        sink.open()
        other.execute("BEGIN EXCLUSIVE")
        (delivery_id,) = new_ids(1)
        deliver(sink, [delivery(subject.good(delivery_id), delivery_id)])


@contextmanager
def _start(folder: Path) -> Iterator[SqliteSubject]:
    yield SqliteSubject(folder)


ROWS = (
    Row("no JSON", PermanentError, _refused),
    Row("no folder", ConfigError, _no_folder),
    Row("no database", ConfigError, _no_database),
    Row("locked", TransientError, _locked),
)
CASES = [Case(name="sqlite", start=_start, has_server=False, rows=ROWS)]
