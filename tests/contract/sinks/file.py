"""Sink kind ``file`` in a folder of its own."""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import orjson

from domain.payload import FilePayload, Payload
from sinks.backends.file import FileSink, FileSinkConfig
from sinks.base import ConfigError, PermanentError, Sink, SinkError, TransientError
from sinks.registry import SinkContext
from tests.contract.sinks.subject import SINK, Case, Row, delivery, new_ids
from tests.support.lanes import deliver
from tests.support.proxy import Proxy

PATH = "folder/out.jsonl"
ERRORS: dict[int, type[SinkError]] = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE), TransientError),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT), ConfigError),
    **dict.fromkeys((errno.ELOOP, errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR), PermanentError),
}


def build(base: Path, **keys: Any) -> FileSink:
    """A sink below that folder."""
    config = FileSinkConfig(kind="file", base_path=str(base), **keys)
    context = SinkContext(cluster="c", name=SINK, source_brokers="", source_client={})
    return FileSink(config, context)


class FileSubject:
    """One file; a record that is no JSON is refused."""

    def __init__(self, base: Path) -> None:
        self.base = base

    def build(self, proxy: Proxy | None = None) -> Sink:
        return build(self.base)

    def good(self, delivery_id: str) -> Payload:
        return FilePayload(sink=SINK, path=PATH, record={"text": "a\nb"})

    def bad(self, delivery_id: str) -> Payload:
        return FilePayload(sink=SINK, path=PATH, record={"text": object()})

    def unencodable(self, delivery_id: str, value: Any) -> Payload:
        return FilePayload(sink=SINK, path=PATH, record={"x": value})

    def stored(self) -> Counter[str]:
        lines = (self.base / PATH).read_bytes().splitlines()
        return Counter(orjson.loads(line)["_delivery_id"] for line in lines)


def _failed(number: int, subject: FileSubject) -> None:
    """The disk fails at the sync, after the write. Raises SinkError; the file is as it was."""
    (delivery_id,) = new_ids(1)
    sink = build(subject.base)
    path = f"failing/{number}.jsonl"
    deliver(sink, [delivery(FilePayload(sink=SINK, path=path, record={}), "before")])
    before = (subject.base / path).read_bytes()
    payload = FilePayload(sink=SINK, path=path, record={})
    with patch.object(os, "fsync", side_effect=OSError(number, os.strerror(number))):
        try:
            deliver(sink, [delivery(payload, delivery_id)])
        finally:
            assert (subject.base / path).read_bytes() == before


@contextmanager
def _start(folder: Path) -> Iterator[FileSubject]:
    yield FileSubject(folder / "base")


ROWS = tuple(
    Row(errno.errorcode[number], expected, partial(_failed, number))
    for number, expected in ERRORS.items()
)
CASES = [Case(name="file", start=_start, has_server=False, repeats=True, rows=ROWS)]
