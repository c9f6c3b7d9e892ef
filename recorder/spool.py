"""Part of the FIFO that lives on disk while Postgres is away: one file of rows per run."""

from __future__ import annotations

import errno
import fcntl
import io
import os
import stat
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from pickle import PickleError, Unpickler, dumps
from typing import IO, Any
from uuid import UUID

from recorder.rows import Row
from recorder.runs import RunDescription

MAGIC = b"DRKSPL1\n"
SUFFIX = ".spool"
_START = struct.Struct("<8sQ")
_LENGTH = struct.Struct("<I")
SLACK = 4
"""Growth of the file beyond what may wait, a quarter: else a full spool that is written and read
would be moved to its start with each batch."""
_BLOCK_BYTES = 1024 * 1024
_THIN_BYTES = 16 * 1024 * 1024
_CLASSES = frozenset({"datetime", "timedelta", "timezone"})


class _PlainUnpickler(Unpickler):
    """Reads what rows are made of and nothing else: a file can name no code."""

    def find_class(self, module: str, name: str) -> Any:
        """Times only."""
        if module == "datetime" and name in _CLASSES:
            return super().find_class(module, name)
        raise PickleError(f"a spool holds no {module}.{name}")


def plain(body: bytes) -> Any:
    """Return what a record holds. Raises an Exception of pickle's when it is damaged."""
    return _PlainUnpickler(io.BytesIO(body)).load()


class Spool:
    """Batches of rows, oldest first. Not safe for threads.

    The file begins with a magic word, the place of the oldest batch, and the run's description;
    then come the batches: a length and a pickled list of plain rows each. It is locked for the life
    of the run, so that an heir can tell a dead run's spool from a live one.
    """

    def __init__(self, directory: Path, run: RunDescription, max_bytes: int) -> None:
        self._path = directory / f"{run.id}{SUFFIX}"
        self._run = run
        self._max_bytes = max_bytes
        self._file: IO[bytes] | None = None
        self._begin = 0
        self._head = 0
        self._thinned = [0, 0]
        self._end = 0

    @property
    def size_bytes(self) -> int:
        """Bytes that wait on disk."""
        return self._end - self._head

    def is_deleted(self) -> bool:
        """Whether somebody removed the file with what waits in it: no heir will find it."""
        return self.size_bytes > 0 and self._file is not None and _links(self._file) == 0

    def append(self, rows: Sequence[Row]) -> bool:
        """Keep a batch; False when it does not fit. Raises OSError when the disk refuses."""
        record = record_of(rows)
        if self.size_bytes + len(record) > self._max_bytes:
            return False
        file = self._open()
        if self._end + len(record) > self._max_bytes + self._max_bytes // SLACK:
            self.compact()
        try:
            _write_at(file, self._end, record)
        except OSError:
            with suppress(OSError):  # else an heir would read what stands of it behind the next one
                file.truncate(self._end)
            raise
        self._end += len(record)
        return True

    def peek(self) -> list[Row] | None:
        """Return the oldest batch, or None."""
        if self.size_bytes == 0 or self._file is None:
            return None
        rows: list[Row] = plain(_body_at(self._file, self._head))
        return rows

    def pop(self) -> None:
        """Drop the oldest batch: it is stored elsewhere now."""
        if self._file is None:
            return
        self._move_head(self._head + _LENGTH.size + len(_body_at(self._file, self._head)))
        if self._head == self._end:
            self._file.truncate(self._begin)
            self._end = self._begin
            self._thinned = [self._begin, self._begin]
            self._move_head(self._begin)

    def thin(
        self, is_kept: Callable[[Row], bool], *, level: int = 0, is_head_kept: bool = False
    ) -> list[Row] | None:
        """Take rows that are not to be kept out of the oldest batches that still have some.

        Goes a bounded way a call, on from where the last one of this ``level`` ended; a higher
        level keeps less. ``is_head_kept`` leaves the oldest batch as it is. Returns what was taken
        out; None when the end was reached before. Raises OSError when the disk refuses.
        """
        if self._file is None:
            return None
        start = max(self._thinned[level], self._head)
        if is_head_kept and start == self._head and start < self._end:
            start += _LENGTH.size + len(_body_at(self._file, start))
        if start >= self._end:
            return None
        kept, taken, stop = io.BytesIO(), [], start
        while stop < self._end and stop - start < _THIN_BYTES:
            body = _body_at(self._file, stop)
            rows: list[Row] = plain(body)
            stop += _LENGTH.size + len(body)
            taken += [row for row in rows if not is_kept(row)]
            if left := [row for row in rows if is_kept(row)]:
                kept.write(record_of(left))
        self._file.seek(self._head)
        text = self._file.read(start - self._head) + kept.getvalue()
        # What stays ends where it ended: the room appears before it, and nothing behind it moves.
        _write_at(self._file, stop - len(text), text)
        moved = stop - len(text) - self._head
        # What a level left there a lower one has no quarrel with; a higher one has seen less.
        self._thinned = [
            max(each, stop) if at <= level else each + moved * (each > self._head)
            for at, each in enumerate(self._thinned)
        ]
        self._move_head(stop - len(text))
        return taken

    def close(self) -> None:
        """Leave what waits on disk; an empty spool leaves no file."""
        if self._file is None:
            return
        is_empty = self.size_bytes == 0
        if is_empty:
            self._path.unlink(missing_ok=True)
        self._file.close()
        self._file = None

    def compact(self) -> None:
        """Move what waits to the start of the file, so that the file is bounded, not only its
        rest."""
        file = self._open()
        read, write = self._head, self._begin
        while read < self._end:
            file.seek(read)
            block = file.read(min(_BLOCK_BYTES, self._end - read))
            _write_at(file, write, block)
            read, write = read + len(block), write + len(block)
        moved = self._end - write
        self._thinned = [max(self._begin, each - moved) for each in self._thinned]
        self._end = write
        # In this order: an heir of one killed between them must not find the head behind the end.
        self._move_head(self._begin)
        file.truncate(write)

    def _move_head(self, head: int) -> None:
        """Put the place of the oldest batch on disk, too: before it lies what means nothing."""
        assert self._file is not None
        self._head = head
        os.pwrite(self._file.fileno(), _START.pack(MAGIC, head), 0)

    def _open(self) -> IO[bytes]:
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            fresh = self._path.with_suffix(".new")
            # Unbuffered: a refused write must not come back with the next read.
            file = fresh.open("w+b", buffering=0)
            fresh.chmod(0o600)
            # Locked before it gets its name: no heir ever finds a live run's spool unlocked.
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            header = record_of({**asdict(self._run), "id": str(self._run.id)})
            self._begin = self._end = _START.size + len(header)
            self._thinned = [self._begin, self._begin]
            _write_at(file, 0, _START.pack(MAGIC, self._begin) + header)
            fresh.rename(self._path)
            self._file, self._head = file, self._begin
        return self._file


def record_of(value: Any) -> bytes:
    """A record of the file: its length, then the value. Raises pickle's errors and TypeError."""
    body = dumps(list(value) if isinstance(value, (list, tuple)) else value, protocol=5)
    return _LENGTH.pack(len(body)) + body


def _links(file: IO[bytes]) -> int:
    return os.fstat(file.fileno()).st_nlink


def _write_at(file: IO[bytes], place: int, data: bytes) -> None:
    """Write all of it there. Raises OSError when the disk refuses; a part may stand then."""
    left = memoryview(data)
    while left:
        written = os.pwrite(file.fileno(), left, place)
        left, place = left[written:], place + written


def _body_at(file: IO[bytes], place: int) -> bytes:
    """Return the record that begins there. Raises EOFError when it is torn."""
    file.seek(place)
    head = file.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        raise EOFError(f"a torn record at byte {place}")
    (length,) = _LENGTH.unpack(head)
    if length > os.fstat(file.fileno()).st_size:
        raise EOFError(f"a torn record at byte {place}")
    body = file.read(length)
    if len(body) < length:
        raise EOFError(f"a torn record at byte {place}")
    return body


class DeadSpool:
    """Spool of a run that ended, locked by its heir until closed."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        """Raises ValueError, EOFError or pickle's errors when the file is no spool."""
        self.path = path
        self._file = file
        start = file.read(_START.size)
        if len(start) < _START.size or not start.startswith(MAGIC):
            raise ValueError("not a spool of this version")
        _, self._place = _START.unpack(start)
        given: dict[str, Any] = plain(_body_at(file, _START.size))
        self.run = RunDescription(**{**given, "id": UUID(given["id"])})
        self._end = file.seek(0, os.SEEK_END)

    @classmethod
    def lock(cls, path: Path) -> IO[bytes] | None:
        """Return the opened file when its run is dead; None while it lives or the file is gone.

        Raises OSError for what cannot be read and written, or is no plain file (a link, a pipe).
        """
        try:
            # Opening a pipe must not wait for its other end.
            descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        file = open(descriptor, "r+b")  # noqa: PTH123, SIM115 - of a descriptor, and it is returned
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError(errno.EINVAL, "no plain file", str(path))
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        except OSError:
            file.close()
            raise
        return file

    @property
    def left_bytes(self) -> int:
        """Bytes not read yet."""
        return int(self._end - self._place)

    def peek(self) -> list[Row] | None:
        """Return the oldest batch; None at the end. Raises as ``__init__`` when a batch is
        damaged."""
        if self._place >= self._end:
            return None
        rows: Any = plain(_body_at(self._file, self._place))
        if not isinstance(rows, list) or not all(map(_is_row, rows)):
            raise ValueError(f"no rows at byte {self._place}")
        return rows

    def pop(self) -> None:
        """Drop the oldest batch: it is in the database now."""
        self._place += _LENGTH.size + len(_body_at(self._file, self._place))

    def remove(self) -> None:
        """Delete the file, then give up the lock."""
        self.path.unlink(missing_ok=True)
        self.close()

    def set_aside(self) -> None:
        """Rename the file, so that nobody adopts it, then give up the lock. Raises OSError."""
        try:
            self.path.rename(self.path.with_suffix(".unreadable"))
        finally:
            self.close()

    def close(self) -> None:
        """Give up the lock; the file stays for another heir."""
        self._file.close()


def _is_row(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    return isinstance(value.get("seq"), int) and isinstance(value.get("kind"), str)
