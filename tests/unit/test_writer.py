"""Which errors of Postgres are a row's fault, and which pass by themselves."""

from __future__ import annotations

from typing import Any

import psycopg.errors
import pytest
from django.db import DatabaseError, IntegrityError

from recorder import writer
from recorder.rows import Row
from tests.unit.test_spool import RUN

ROWS: list[Row] = [{"seq": seq, "kind": "consumed"} for seq in range(1, 5)]


def refused(cause: type[psycopg.Error]) -> IntegrityError:
    error = IntegrityError("refused")
    error.__cause__ = cause()
    return error


class Flush:
    """Raises the errors given, one a call, then stores."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.stored: list[int] = []

    def __call__(self, run: Any, rows: list[Row], seq: int, project: Any) -> int:
        if self.errors:
            raise self.errors.pop(0)
        self.stored += [row["seq"] for row in rows]
        return int(rows[-1]["seq"])


def test_rows_whose_day_gets_its_partition_in_that_moment_are_stored_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    flush = Flush(refused(psycopg.errors.CheckViolation))
    monkeypatch.setattr(writer, "flush", flush)
    assert writer.flush_narrowing(RUN, ROWS, 0) == (4, [])
    assert flush.stored == [1, 2, 3, 4]


def test_a_partition_that_is_not_there_yet_is_waited_for_and_costs_no_row(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    errors = [refused(psycopg.errors.CheckViolation) for _ in range(2)]
    monkeypatch.setattr(writer, "flush", Flush(*errors))
    with pytest.raises(DatabaseError):
        writer.flush_narrowing(RUN, ROWS, 0)


def test_a_row_that_breaks_a_constraint_is_found_and_its_neighbours_are_stored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stored: list[int] = []

    def flush(run: Any, rows: list[Row], seq: int, project: Any) -> int:
        if any(row["seq"] == 3 for row in rows):
            raise refused(psycopg.errors.NotNullViolation)
        stored.extend(row["seq"] for row in rows)
        return int(rows[-1]["seq"])

    monkeypatch.setattr(writer, "flush", flush)
    assert writer.flush_narrowing(RUN, ROWS, 0) == (4, [ROWS[2]])
    assert stored == [1, 2, 4]
