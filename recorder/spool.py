"""The part of the FIFO that lives on disk while Postgres is away: one file of rows per run."""

from __future__ import annotations

import fcntl
import struct
from collections.abc import Sequence
from pathlib import Path
from pickle import dumps, loads
from typing import IO

from recorder.rows import Row

_LENGTH = struct.Struct("<I")
_BLOCK_BYTES = 1024 * 1024


class Spool:
    """Batches of rows, oldest first. Used by the recorder's own thread only.

    A record is a length and a pickled list of plain rows, written and read by the same program. The
    file is locked for the life of the run, so that an heir can tell a dead run's spool from a live
    one.
    """

    def __init__(self, directory: Path, run: str, max_bytes: int) -> None:
        self._path = directory / f"{run}.spool"
        self._max_bytes = max_bytes
        self._file: IO[bytes] | None = None
        self._head = 0
        self._end = 0

    @property
    def size_bytes(self) -> int:
        """Bytes that wait on disk."""
        return self._end - self._head

    def append(self, rows: Sequence[Row]) -> bool:
        """Keep a batch; False when it does not fit. Raises OSError when the disk refuses."""
        body = dumps(list(rows), protocol=5)
        if self.size_bytes + len(body) + _LENGTH.size > self._max_bytes:
            return False
        file = self._open()
        if self._end + len(body) + _LENGTH.size > self._max_bytes:
            self._compact(file)
        file.seek(self._end)
        file.write(_LENGTH.pack(len(body)) + body)
        file.flush()
        self._end = file.tell()
        return True

    def peek(self) -> list[Row] | None:
        """The oldest batch, or None."""
        if self.size_bytes == 0 or self._file is None:
            return None
        self._file.seek(self._head)
        (length,) = _LENGTH.unpack(self._file.read(_LENGTH.size))
        rows: list[Row] = loads(self._file.read(length))
        return rows

    def pop(self) -> None:
        """The oldest batch is stored elsewhere now."""
        if self._file is None:
            return
        self._file.seek(self._head)
        (length,) = _LENGTH.unpack(self._file.read(_LENGTH.size))
        self._head += _LENGTH.size + length
        if self._head == self._end:
            self._file.truncate(0)
            self._head = self._end = 0

    def close(self) -> None:
        """Leave what waits on disk; an empty spool leaves no file."""
        if self._file is None:
            return
        is_empty = self.size_bytes == 0
        self._file.close()
        self._file = None
        if is_empty:
            self._path.unlink(missing_ok=True)

    def _compact(self, file: IO[bytes]) -> None:
        """Move what waits to the start of the file, so that the file is bounded, not only its
        rest."""
        read, write = self._head, 0
        while read < self._end:
            file.seek(read)
            block = file.read(min(_BLOCK_BYTES, self._end - read))
            file.seek(write)
            file.write(block)
            read, write = read + len(block), write + len(block)
        file.truncate(write)
        self._head, self._end = 0, write

    def _open(self) -> IO[bytes]:
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._file = self._path.open("w+b")
            self._path.chmod(0o600)
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return self._file
