"""The recorder's FIFO on a disk that refuses: memory is bounded, failures outlive successes."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

import pytest

from recorder.backlog import Backlog
from recorder.rows import Row
from recorder.shedding import MAX_RANGES, ShedAccount, joined
from recorder.spool import Spool
from tests.unit.test_spool import RUN, full_at

BUFFER_BYTES = 100_000
MIB = 1 << 20


def made(folder: Path, max_bytes: int = 64 * MIB) -> tuple[Backlog, ShedAccount]:
    shed = ShedAccount()
    return Backlog(Spool(folder, RUN, max_bytes), shed), shed


def add(backlog: Backlog, first: int, count: int) -> None:
    """Every tenth row tells of a failure."""
    rows: list[Row] = [
        {"seq": n, "kind": "consumed" if n % 10 else "task_failed", "data": f"{n:0100d}"}
        for n in range(first, first + count)
    ]
    backlog.add(rows)
    backlog.spill(BUFFER_BYTES)


def drained(backlog: Backlog) -> list[Row]:
    found: list[Row] = []
    while batch := backlog.next_batch():
        found += batch
        backlog.stored()
    backlog.close()
    return found


def kinds(rows: list[Row]) -> Counter[str]:
    return Counter(row["kind"] for row in rows)


def test_without_a_folder_for_the_spool_the_oldest_successes_go(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "file"
    folder.write_text("no folder")
    backlog, shed = made(folder)
    logging.getLogger("drakkar").propagate = True
    try:
        for first in range(1, 1001, 100):
            add(backlog, first, 100)
            assert backlog.events * 700 <= BUFFER_BYTES
    finally:
        logging.getLogger("drakkar").propagate = False
    rows = drained(backlog)
    assert kinds(rows)["task_failed"] == 100, "no failure went"
    assert [row["seq"] for row in rows] == sorted(row["seq"] for row in rows)
    assert shed.total == 1000 - len(rows)
    said = {record.created for record in caplog.records}
    assert len(said) == 1, "once, not with each batch"


def test_a_disk_that_is_full_keeps_what_fits_and_failures_longest(tmp_path: Path) -> None:
    backlog, shed = made(tmp_path)
    add(backlog, 1, 2000)
    assert backlog.spooled_bytes > 0
    size = next(tmp_path.glob("*.spool")).stat().st_size
    with full_at(size + 10):
        for first in range(2001, 8001, 500):
            add(backlog, first, 500)
            assert backlog.events * 700 <= BUFFER_BYTES
    rows = drained(backlog)
    assert kinds(rows)["task_failed"] == 800
    assert shed.total == 8000 - len(rows)
    assert kinds(rows)["consumed"] > 0, "not more went than had to"
    assert [row["seq"] for row in rows] == sorted({row["seq"] for row in rows})


def test_an_account_has_few_ranges_and_an_exact_number_in_each() -> None:
    shed = ShedAccount()
    gone = [n for n in range(1, 20_000) if n % 7]
    shed.add({"seq": n, "kind": "consumed"} for n in gone)
    account = shed.settle(1.0)
    assert account is not None
    assert account.shed == {"consumed": len(gone)}
    assert len(account.ranges) <= MAX_RANGES
    for first, last, count in account.ranges:
        assert count == len([n for n in gone if first <= n <= last])
    assert sum(count for *_, count in account.ranges) == len(gone)
    assert shed.settle(1.0) is None


def test_ranges_are_joined_over_the_smallest_holes() -> None:
    assert joined([[1, 2, 2], [5, 6, 2], [100, 101, 2]], 2) == [[1, 6, 4], [100, 101, 2]]
    assert joined([[3, 4, 2], [1, 2, 2]], 2) == [[1, 4, 4]]
