"""The file sink on a real file system; faults of the disk are injected where none can be made."""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from domain.payload import FilePayload
from sinks.backends.file import TAIL_BYTES, FileSinkConfig
from sinks.base import ConfigError, Delivery, PermanentError, TransientError
from tests.contract.sinks.file import build as sink
from tests.support.lanes import deliver


def delivery(number: int, path: Any = "out.jsonl", record: Any = None) -> Delivery:
    return Delivery(
        payload=FilePayload(sink="log", path=path, record=record or {"n": number}),
        delivery_id=f"d{number}",
        topic="t",
        partition=0,
        offset=number,
    )


def lines(path: Path) -> list[dict[str, Any]]:
    text = path.read_bytes()
    assert text.endswith(b"\n")
    return [json.loads(line) for line in text.splitlines()]


def test_records_are_lines_with_their_delivery_id(tmp_path: Path) -> None:
    base = tmp_path / "made"
    writer = sink(base)
    writer.open()
    deliver(writer, [delivery(1), delivery(2, "a/b/c.jsonl"), delivery(3, record={"t": "x\ny"})])
    deliver(writer, [delivery(4, record={"_delivery_id": "forged", "n": 4})])
    assert lines(base / "out.jsonl") == [
        {"n": 1, "_delivery_id": "d1"},
        {"t": "x\ny", "_delivery_id": "d3"},
        {"n": 4, "_delivery_id": "d4"},
    ]
    assert lines(base / "a/b/c.jsonl") == [{"n": 2, "_delivery_id": "d2"}]
    writer.close()


OUTSIDE = ["/etc/x", "../x", "a/../../x", "a/./b", "", "a//b", "a/", "..", "a\0b"]


@pytest.mark.parametrize("path", [*OUTSIDE, "n" * 300, "\ud800"])
def test_a_path_that_leads_elsewhere_is_a_data_error(path: Any, tmp_path: Path) -> None:
    base = tmp_path / "base"
    with pytest.raises(PermanentError) as caught:
        deliver(sink(base), [delivery(1), delivery(2, path), delivery(3)])
    assert caught.value.bad_indices == (1,)
    assert [line["n"] for line in lines(base / "out.jsonl")] == [1, 3]
    assert [found.name for found in tmp_path.iterdir()] == ["base"]
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "record",
    [{"k": object()}, {1: 2}, {"k": "\ud800"}, {"k": [{"n": float("nan")}]}, {"k": -math.inf}],
)
def test_a_record_that_is_no_json_is_a_data_error(record: Any, tmp_path: Path) -> None:
    with pytest.raises(PermanentError, match=r"^record") as caught:
        deliver(sink(tmp_path), [delivery(1), delivery(2, record=record)])
    assert caught.value.bad_indices == (1,)
    assert [line["n"] for line in lines(tmp_path / "out.jsonl")] == [1]


def test_no_symbolic_link_is_followed(tmp_path: Path) -> None:
    base, outside = tmp_path / "base", tmp_path / "outside"
    base.mkdir()
    outside.mkdir()
    (base / "folder").symlink_to(outside)
    (base / "file").symlink_to(outside / "file")
    for path in ("folder/x", "file"):
        with pytest.raises(PermanentError):
            deliver(sink(base), [delivery(1, path)])
    assert list(outside.iterdir()) == []


def test_only_regular_files_are_written(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "plain").write_text("")
    for path in ("pipe", "folder", "plain/x"):
        with pytest.raises(PermanentError):
            deliver(sink(tmp_path), [delivery(1, path)])


@pytest.mark.parametrize("tail", [b'{"n": 1', b"x", b"y" * (3 * TAIL_BYTES)], ids=range(3))
@pytest.mark.parametrize("head", [b"", b'{"n": 0}\n'], ids=["alone", "after a line"])
def test_a_torn_last_line_is_cut_off(head: bytes, tail: bytes, tmp_path: Path) -> None:
    (tmp_path / "out.jsonl").write_bytes(head + tail)
    deliver(sink(tmp_path), [delivery(7)])
    assert (tmp_path / "out.jsonl").read_bytes() == head + b'{"n":7,"_delivery_id":"d7"}\n'


def test_the_files_stored_before_an_illness_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, left = os.write, [1]

    def write(file: int, view: memoryview) -> int:
        if not left:
            raise OSError(errno.ENOSPC, "full")
        left.pop()
        return real(file, view)

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(TransientError) as caught:
        deliver(sink(tmp_path), [delivery(1, "a"), delivery(2, "b"), delivery(3, "a")])
    assert caught.value.stored_indices == (0, 2)
    assert (tmp_path / "b").read_bytes() == b""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(path)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"cannot mount a small file system here: {done.stderr.strip()}")
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=True)


def test_a_full_disk_keeps_whole_lines_and_heals(small_disk: Path) -> None:
    writer = sink(small_disk)
    deliver(writer, [delivery(1)])
    before = (small_disk / "out.jsonl").read_bytes()
    with pytest.raises(TransientError, match="ENOSPC"):
        deliver(writer, [delivery(2, record={"n": 2, "much": "x" * 100_000})])
    assert (small_disk / "out.jsonl").read_bytes() == before
    deliver(writer, [delivery(3)])
    assert [line["n"] for line in lines(small_disk / "out.jsonl")] == [1, 3]


def test_a_read_only_disk_waits_for_an_operator(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(ConfigError, match="EROFS"):
        deliver(sink(small_disk), [delivery(1)])


def test_a_base_path_that_is_none_waits_for_an_operator(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for base in (tmp_path / "file", tmp_path / "not" / "there"):
        with pytest.raises(ConfigError):
            sink(base).open()
        with pytest.raises(ConfigError):
            deliver(sink(base), [delivery(1)])


def test_another_writers_lock_is_awaited(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with path.open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(TransientError, match="locked"):
            deliver(sink(tmp_path, timeout_seconds=0.05), [delivery(1)])
        writer = threading.Thread(target=deliver, args=(sink(tmp_path), [delivery(2)]))
        writer.start()
    writer.join(10)
    assert [line["n"] for line in lines(path)] == [2]


def test_a_file_rotated_while_it_was_locked_is_opened_anew(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with path.open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(TransientError, match="locked"):
            deliver(sink(tmp_path, timeout_seconds=0.05), [delivery(1)])
        writer = threading.Thread(target=deliver, args=(sink(tmp_path), [delivery(2)]))
        writer.start()
        path.rename(tmp_path / "out.1")
    writer.join(10)
    assert [line["n"] for line in lines(path)] == [2]
    assert (tmp_path / "out.1").read_bytes() == b""


def test_many_writers_lose_nothing(tmp_path: Path) -> None:
    def write(first: int) -> None:
        writer = sink(tmp_path, fsync="never")
        for number in range(first, first + 20):
            deliver(writer, [delivery(number, record={"n": number, "pad": "p" * 5000})])

    threads = [threading.Thread(target=write, args=(first,)) for first in range(0, 80, 20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(line["n"] for line in lines(tmp_path / "out.jsonl")) == list(range(80))


@pytest.mark.parametrize(("mode", "is_called"), [("batch", True), ("never", False)])
def test_fsync_is_as_configured(
    mode: str, is_called: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out.jsonl").write_text("")
    called: list[int] = []
    monkeypatch.setattr(os, "fsync", called.append)
    deliver(sink(tmp_path, fsync=mode), [delivery(1), delivery(2)])
    assert bool(called) is is_called


def test_a_bad_section_is_refused() -> None:
    for keys in ({}, {"base_path": ""}, {"base_path": "x", "fsync": "always"}):
        with pytest.raises(ValidationError):
            FileSinkConfig(kind="file", **keys)
