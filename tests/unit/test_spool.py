"""The spool on a disk that is full: what is on it can be read, and goes on when there is room."""

from __future__ import annotations

import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from recorder.runs import RunDescription, uuid7
from recorder.spool import DeadSpool, Spool

RUN = RunDescription(
    id=uuid7(1.0),
    cluster="main",
    worker="w",
    host="h",
    pid=1,
    version="0",
    isolation="groups",
    slots=1,
    config_hash="",
    config={},
    environment={},
    started_at=1.0,
)


def rows(first: int, count: int = 100) -> list[dict[str, Any]]:
    return [{"seq": seq, "kind": "consumed"} for seq in range(first, first + count)]


@contextmanager
def full_at(size_bytes: int) -> Iterator[None]:
    """No file of this process can grow beyond that: writes are refused by the kernel."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_refuses_a_batch_and_keeps_none_of_the_others_back(tmp_path: Path) -> None:
    spool = Spool(tmp_path, RUN, 1 << 20)
    assert spool.append(rows(1))
    (path,) = tmp_path.iterdir()
    with full_at(path.stat().st_size + 10):
        with pytest.raises(OSError, match="too large"):
            spool.append(rows(101))
        assert spool.peek() == rows(1)
        spool.pop()
        assert spool.peek() is None
    assert spool.append(rows(201))
    assert spool.peek() == rows(201)
    spool.close()


def read_by_an_heir(path: Path) -> list[Any]:
    file = DeadSpool.lock(path)
    assert file is not None
    dead, found = DeadSpool(path, file), []
    while (batch := dead.peek()) is not None:
        found += batch
        dead.pop()
    dead.close()
    return found


def test_what_a_full_disk_took_of_a_refused_batch_is_not_left_behind_a_smaller_one(
    tmp_path: Path,
) -> None:
    spool = Spool(tmp_path, RUN, 1 << 20)
    assert spool.append(rows(1))
    (path,) = tmp_path.iterdir()
    with full_at(path.stat().st_size + 1000), pytest.raises(OSError, match="too large"):
        spool.append(rows(101))
    assert spool.append(rows(201, 1))
    spool.close()
    assert read_by_an_heir(path) == [*rows(1), *rows(201, 1)]


def test_a_spool_whose_owner_is_killed_while_it_is_compacted_is_not_taken_for_an_empty_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path, RUN, 1 << 20)
    for first in range(1, 1001, 100):
        assert spool.append(rows(first))
    for _ in range(9):
        spool.pop()
    (path,) = tmp_path.iterdir()
    copy = tmp_path / "killed"
    move_head = spool._move_head

    def killed_here(head: int) -> None:
        shutil.copy(path, tmp_path / "before")
        move_head(head)
        shutil.copy(path, copy)

    monkeypatch.setattr(spool, "_move_head", killed_here)
    spool.compact()
    for each in (tmp_path / "before", copy):
        file = DeadSpool.lock(each)
        assert file is not None
        with file:
            assert DeadSpool(each, file).peek() == rows(901)
    spool.close()


def test_a_spool_that_somebody_deleted_is_told_of(tmp_path: Path) -> None:
    spool = Spool(tmp_path, RUN, 1 << 20)
    assert not spool.is_deleted()
    assert spool.append(rows(1))
    assert not spool.is_deleted()
    (path,) = tmp_path.iterdir()
    path.unlink()
    assert spool.is_deleted()
    spool.pop()
    assert not spool.is_deleted()
    spool.close()
