"""Files an export can be: each writer takes rows of ``COLUMNS`` in steps, and is bounded."""

from __future__ import annotations

import base64
import contextlib
import csv
import gzip
import io
import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, Protocol

import orjson
from django.db import models

from recorder.models import Event, Run

COLUMNS = tuple(field.name for field in Event._meta.concrete_fields if not field.primary_key)
JSON_COLUMNS = frozenset({"labels", "args", "data"})
BYTES_COLUMNS = frozenset({"stdout", "stderr"})
RUN_COLUMNS = (
    "id", "cluster", "worker", "host", "pid", "version", "isolation", "cgroups", "slots",
    "config_hash", "config", "started_at", "recorded_seq",
)  # fmt: skip
GROUP_ROWS, GROUP_BYTES = 16_384, 16 * 1024 * 1024
"""Rows of a row group of Parquet at most, and bytes of output after which it ends."""
FORMULA = ("=", "+", "-", "@", "\t", "\r")
Row = Sequence[Any]


class Writer(Protocol):
    """Writes one file. ``close`` finishes it; a writer that is not closed leaves a torn file."""

    def add_run(self, run: Run) -> None:
        """Return the run that the next rows belong to."""

    def add(self, rows: Sequence[Row]) -> None:
        """Rows of ``COLUMNS``, in order."""

    def close(self) -> None:
        """Make the file whole."""

    def abandon(self) -> None:
        """Let go of the file."""


class BadFormat(ValueError):
    """A file that cannot be made; the text says what was expected and what to do."""


def json_bytes(value: Any) -> bytes:
    """A value of rows as JSON; Postgres gives back numbers of any size."""
    try:
        return orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS)
    except TypeError:  # an integer beyond 64 bits
        return json.dumps(value, default=str).encode()


def _time(value: datetime) -> str:
    return value.astimezone(UTC).isoformat(timespec="microseconds")


def _opened(path: Path, *, is_packed: bool) -> io.BufferedWriter | gzip.GzipFile:
    """Open a file to write, by gzip where it is packed; the same rows make the same bytes."""
    if not is_packed:
        return path.open("wb")
    return _Gzip(path.open("wb"))


class _Gzip(gzip.GzipFile):
    """Closes its file, too."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__("", "wb", 6, file, mtime=0)
        self._to = file

    def close(self) -> None:
        try:
            super().close()
        finally:
            self._to.close()


class JsonLines:
    """One JSON object a line. Output that is not UTF-8 is ``{"$bytes": base64}``."""

    def __init__(self, path: Path, *, is_packed: bool = False) -> None:
        self._file = _opened(path, is_packed=is_packed)
        self._run: dict[str, str] = {}

    def add_run(self, run: Run) -> None:
        """Its cluster and worker stand in each line."""
        self._run = {"cluster": run.cluster, "worker": run.worker}

    def add(self, rows: Sequence[Row]) -> None:
        """A line each, without what a row does not have."""
        for row in rows:
            found = {n: v for n, v in zip(COLUMNS, row, strict=True) if v is not None}
            for name in BYTES_COLUMNS & found.keys():
                found[name] = _text_or_bytes(bytes(found[name]))
            self._file.write(json_bytes(self._run | found) + b"\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    abandon = close


def _text_or_bytes(output: bytes) -> Any:
    text = _text(output)
    return {"$bytes": base64.b64encode(output).decode()} if text is None else text


def _text(output: bytes) -> str | None:
    try:
        return output.decode()
    except UnicodeDecodeError:
        return None


class Csv:
    """One line an event under a head line; JSON in ``labels args data``.

    Output that is not UTF-8 is ``base64:...``; a text that a spreadsheet would take for a formula
    gets a ``'`` before it.
    """

    def __init__(self, path: Path, *, is_packed: bool = False) -> None:
        file = _opened(path, is_packed=is_packed)
        self._file = io.TextIOWrapper(file, encoding="utf-8", newline="")
        self._writer = csv.writer(self._file)
        self._writer.writerow(["cluster", "worker", *COLUMNS])
        self._run: list[str] = []

    def add_run(self, run: Run) -> None:
        """Its cluster and worker stand in each line."""
        self._run = [cell("cluster", run.cluster), cell("worker", run.worker)]

    def add(self, rows: Sequence[Row]) -> None:
        """A line each."""
        for row in rows:
            cells = [cell(name, value) for name, value in zip(COLUMNS, row, strict=True)]
            self._writer.writerow([*self._run, *cells])
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    abandon = close


def cell(name: str, value: Any) -> Any:
    """A column's value as a cell of CSV; see ``Csv``."""
    if value is None:
        return ""
    if isinstance(value, datetime):
        return _time(value)
    if name in JSON_COLUMNS:
        return json_bytes(value).decode()
    if name in BYTES_COLUMNS:
        text = _text(bytes(value))
        value = f"base64:{base64.b64encode(bytes(value)).decode()}" if text is None else text
    if isinstance(value, str):
        value = value.replace("\0", "\N{REPLACEMENT CHARACTER}")
        return f"'{value}" if value.startswith(FORMULA) else value
    return value


SCHEMA = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
PRAGMA temp_store = FILE;
CREATE TABLE runs (
    id TEXT PRIMARY KEY, cluster TEXT, worker TEXT, host TEXT, pid INTEGER, version TEXT,
    isolation TEXT, cgroups TEXT, slots INTEGER, config_hash TEXT, config TEXT, started_at TEXT,
    recorded_seq INTEGER
);
CREATE TABLE events (
    ts TEXT, run TEXT, seq INTEGER, kind TEXT, topic TEXT, partition INTEGER, "offset" INTEGER,
    task_id TEXT, slot INTEGER, exit_code INTEGER, pid INTEGER, duration_ms REAL, queue_ms REAL,
    attempt INTEGER, sink TEXT, labels TEXT, args TEXT, stdout BLOB, stderr BLOB,
    stdout_size INTEGER, stderr_size INTEGER, data TEXT
);
"""
FINISH = """
CREATE UNIQUE INDEX events_by_run ON events (run, seq);
CREATE INDEX events_by_time ON events (ts);
CREATE INDEX events_by_offset ON events (topic, partition, "offset");
CREATE INDEX events_by_task ON events (task_id) WHERE task_id IS NOT NULL;
CREATE INDEX events_by_kind ON events (kind, ts);
CREATE VIEW traces AS
    SELECT r.cluster, r.worker, e.* FROM events e JOIN runs r ON r.id = e.run
    WHERE e."offset" IS NOT NULL ORDER BY e.topic, e.partition, e."offset", e.ts, e.seq;
CREATE VIEW tasks AS
    SELECT r.cluster, r.worker, e.run, e.topic, e.partition, e."offset", e.task_id, e.attempt,
        min(CASE e.kind WHEN 'task_started' THEN e.ts END) AS started_at,
        max(CASE WHEN e.kind <> 'task_started' THEN e.ts END) AS ended_at,
        coalesce(max(CASE e.kind WHEN 'task_completed' THEN 'completed'
            WHEN 'task_failed' THEN 'failed' WHEN 'task_cancelled' THEN 'cancelled' END),
            'open') AS outcome,
        max(e.exit_code) AS exit_code, max(e.pid) AS pid, max(e.duration_ms) AS duration_ms,
        max(e.queue_ms) AS queue_ms, max(e.labels) AS labels, max(e.args) AS args,
        max(e.stdout) AS stdout, max(e.stderr) AS stderr
    FROM events e JOIN runs r ON r.id = e.run
    WHERE e.kind IN ('task_started', 'task_completed', 'task_failed', 'task_cancelled')
    GROUP BY e.run, e.topic, e.task_id, e.attempt;
"""


class Sqlite:
    """A database that opens by itself: tables ``runs events``, views ``tasks traces``."""

    def __init__(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._connection.executescript(SCHEMA)
        marks = ", ".join("?" * len(COLUMNS))
        names = ", ".join(f'"{name}"' for name in COLUMNS)
        self._insert = f"INSERT INTO events ({names}) VALUES ({marks})"  # noqa: S608 - own names

    def add_run(self, run: Run) -> None:
        """A row of ``runs``."""
        values = [_sql(name, getattr(run, name)) for name in RUN_COLUMNS]
        marks = ", ".join("?" * len(values))
        names = ", ".join(RUN_COLUMNS)
        self._connection.execute(f"INSERT INTO runs ({names}) VALUES ({marks})", values)  # noqa: S608

    def add(self, rows: Sequence[Row]) -> None:
        """Rows of ``events``, in one transaction."""
        self._connection.execute("BEGIN")
        self._connection.executemany(
            self._insert, [[_sql(n, v) for n, v in zip(COLUMNS, row, strict=True)] for row in rows]
        )
        self._connection.execute("COMMIT")

    def close(self) -> None:
        """Indexes and views last: rows go in faster without them."""
        self._connection.executescript(FINISH)
        self._connection.close()

    def abandon(self) -> None:
        """Close without them."""
        with contextlib.suppress(sqlite3.Error):
            self._connection.close()


def _sql(name: str, value: Any) -> Any:
    if value is None or isinstance(value, (int, float)):
        return value
    if isinstance(value, datetime):
        return _time(value)
    if name in BYTES_COLUMNS:
        return bytes(value)
    return json_bytes(value).decode() if name in JSON_COLUMNS or name == "config" else str(value)


class Parquet:
    """Columns of ``cluster worker`` and an event; times in UTC, JSON as text, output as bytes;
    Zstandard. Needs ``pyarrow``."""

    def __init__(self, path: Path) -> None:
        import pyarrow as pa
        from pyarrow import parquet

        kinds = {
            models.DateTimeField: pa.timestamp("us", tz="UTC"),
            models.IntegerField: pa.int64(),
            models.FloatField: pa.float64(),
            models.BinaryField: pa.binary(),
        }
        columns = [
            (name, next((of for kind, of in kinds.items() if isinstance(field, kind)), pa.string()))
            for name, field in ((name, Event._meta.get_field(name)) for name in COLUMNS)
        ]
        names = [("cluster", pa.string()), ("worker", pa.string())]
        self._schema = pa.schema([*names, *columns])
        self._batch = pa.RecordBatch.from_pylist
        self._writer = parquet.ParquetWriter(path, self._schema, compression="zstd")
        self._run: dict[str, str] = {}
        self._rows: list[dict[str, Any]] = []
        self._size_bytes = 0

    def add_run(self, run: Run) -> None:
        """Its cluster and worker stand in each row."""
        self._run = {"cluster": run.cluster, "worker": run.worker}

    def add(self, rows: Sequence[Row]) -> None:
        """Rows, written a group at a time."""
        for row in rows:
            found = {n: _arrow(n, v) for n, v in zip(COLUMNS, row, strict=True)}
            self._rows.append(self._run | found)
            self._size_bytes += sum(len(found[name] or b"") for name in BYTES_COLUMNS)
        if len(self._rows) >= GROUP_ROWS or self._size_bytes >= GROUP_BYTES:
            self._write()

    def _write(self) -> None:
        self._writer.write_batch(self._batch(self._rows, schema=self._schema))
        self._rows, self._size_bytes = [], 0

    def close(self) -> None:
        """Write the rest and what describes it."""
        if self._rows:
            self._write()
        self._writer.close()

    def abandon(self) -> None:
        """Let go of the file."""
        self._writer.close()


def _arrow(name: str, value: Any) -> Any:
    if name in JSON_COLUMNS:
        return None if value is None else json_bytes(value).decode()
    if name in BYTES_COLUMNS:
        return None if value is None else bytes(value)
    return str(value) if name == "run" else value


WRITERS: Mapping[str, Callable[..., Writer]] = {
    "sqlite": Sqlite,
    "jsonl": JsonLines,
    "csv": Csv,
    "parquet": Parquet,
}
"""Every format by its name."""
PACKED = ".gz"
"""End of the name of a file that is packed by gzip."""
PACKABLE = ("jsonl", "csv")


def formats() -> list[str]:
    """Return the formats that can be made here."""
    return [name for name in WRITERS if name != "parquet" or find_spec("pyarrow")]


def suffix_of(format_name: str, file_name: str) -> str:
    """Return the suffix of a file of that format, packed where its name says so. Raises
    BadFormat."""
    if format_name not in WRITERS:
        known = ", ".join(WRITERS)
        raise BadFormat(f"format: expected one of {known}, got {format_name[:40]}")
    if format_name not in formats():
        raise BadFormat(
            "format: parquet needs pyarrow, which is not installed: pip install pyarrow"
        )
    if not file_name.endswith(PACKED):
        return f".{format_name}"
    if format_name not in PACKABLE:
        raise BadFormat(
            f"name: expected no {PACKED} with {format_name}, got {file_name[-40:]}: "
            f"{' and '.join(PACKABLE)} can be packed"
        )
    return f".{format_name}{PACKED}"


def writer_of(format_name: str, path: Path, suffix: str) -> Writer:
    """Return a writer of the file, packed where the suffix says so."""
    if suffix.endswith(PACKED):
        return WRITERS[format_name](path, is_packed=True)
    return WRITERS[format_name](path)
