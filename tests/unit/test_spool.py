"""The spool on a disk that is full: what is on it can be read, and goes on when there is room."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from recorder.runs import RunDescription, uuid7
from recorder.spool import Spool

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
