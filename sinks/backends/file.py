"""Sink kind ``file``: JSON lines, appended to files below one folder.

Each file of a batch: lock, cut off a torn last line, write, fsync, unlock. Whatever stands after
the last newline was never acknowledged, so a file belongs to its sinks alone.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import Field

from domain.payload import FilePayload
from sinks.base import (
    ConfigError,
    Delivery,
    PermanentError,
    SinkError,
    TransientError,
    UnknownError,
    raise_failures,
    refusal,
    repetition_id,
)
from sinks.config import SinkConfig
from sinks.json_form import NotJson, encode_json
from sinks.registry import SinkContext, SinkKind

# What the system's error numbers mean; what stands in no table is unknown.
PERMANENT = frozenset(
    {errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOTDIR, errno.ENXIO, errno.EILSEQ}
)
CONFIG = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.EOPNOTSUPP})
TRANSIENT = frozenset(
    {
        errno.EAGAIN,
        errno.EBUSY,
        errno.EDQUOT,
        errno.EFBIG,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.EINTR,
        errno.EIO,
        errno.EMFILE,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.ENFILE,
        errno.ENODEV,
        errno.ENOLCK,
        errno.ENOMEM,
        errno.ENOSPC,
        errno.ENOTCONN,
        errno.EREMOTEIO,
        errno.ESHUTDOWN,
        errno.ESTALE,
        errno.ETIMEDOUT,
        errno.ETXTBSY,
    }
)

FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
FILE_FLAGS = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
LOCK_POLL_SECONDS = 0.01
TAIL_BYTES = 64 * 1024


class FileSinkConfig(SinkConfig):
    """Keys of a file sink; ``timeout_seconds`` is the longest wait for another writer's lock."""

    base_path: str = Field(min_length=1, max_length=4000)
    fsync: Literal["batch", "never"] = "batch"


def translate(error: OSError, path: str) -> SinkError:
    """Return the system's error in our words."""
    name = errno.errorcode.get(error.errno or 0, type(error).__name__)
    detail = f"{path}: {name}: {error.strerror or error}"
    if error.errno in PERMANENT:
        return PermanentError(f"{detail}; expected a plain file in plain folders")
    if error.errno in CONFIG:
        return ConfigError(f"{detail}; check base_path and its rights")
    return TransientError(detail) if error.errno in TRANSIENT else UnknownError(detail)


def segments(path: str) -> list[str]:
    """A relative path's names. Raises PermanentError for what could lead out of the folder."""
    if not isinstance(path, str):
        raise PermanentError(f"path: expected text, got {type(path).__name__}")
    try:
        path.encode()
    except UnicodeEncodeError as exc:
        raise refusal("path", exc) from exc
    names = path.split("/")
    if "\0" in path or any(name in ("", ".", "..") for name in names):
        raise PermanentError(f"path: expected a relative path without '.' or '..', got {path!r}")
    return names


@dataclass(frozen=True, slots=True)
class Line:
    """A line, and the file it goes to."""

    path: str
    names: Sequence[str]
    text: bytes


class FileSink:
    """Sink that appends payloads to files (module's docstring)."""

    kind: ClassVar[str] = "file"

    def __init__(self, config: FileSinkConfig, context: SinkContext) -> None:
        self._config = config

    def open(self) -> None:
        """Make the folder when only it is missing. Raises TransientError or ConfigError."""
        os.close(self._base())

    def encode(self, delivery: Delivery) -> Line:
        """Return the line of a payload and its file's names. Raises PermanentError."""
        payload = delivery.payload
        assert isinstance(payload, FilePayload)
        names = segments(payload.path)
        record = {**payload.record, "_delivery_id": repetition_id(delivery, payload.path)}
        try:
            return Line(payload.path, names, encode_json(record, "record", end=b"\n"))
        except NotJson as exc:
            raise PermanentError(str(exc)) from exc

    def send(self, batch: Sequence[Line]) -> None:
        """Append the batch, a file after the other; see ``Sink.send``."""
        stored: list[int] = []
        failures: dict[int, SinkError] = {}
        for path, lines in _by_path(batch).items():
            try:
                self._append(path, batch[lines[0]].names, b"".join(batch[i].text for i in lines))
            except (PermanentError, UnknownError) as exc:
                failures |= dict.fromkeys(lines, exc)
            except SinkError as exc:
                exc.stored_indices = tuple(sorted(stored))
                raise
            else:
                stored += lines
        raise_failures(failures, sorted(stored))

    def close(self) -> None:
        """Nothing stays open between batches."""

    def _append(self, path: str, names: Sequence[str], lines: bytes) -> None:
        try:
            with self._folder(names[:-1]) as folder:
                self._append_in(folder, path, lines)
        except OSError as exc:
            raise translate(exc, path) from exc

    def _base(self) -> int:
        """``base_path``, opened. What is wrong with it is never the data's fault."""
        base = self._config.base_path
        try:
            try:
                return os.open(base, FOLDER_FLAGS)
            except FileNotFoundError:
                os.mkdir(base)  # noqa: PTH102 - one level: a missing mount is not papered over
                return os.open(base, FOLDER_FLAGS)
        except OSError as exc:
            error = translate(exc, base)
            raise ConfigError(str(error)) if isinstance(error, PermanentError) else error from exc

    @contextmanager
    def _folder(self, names: Sequence[str]) -> Iterator[int]:
        """Return the folder of these names, made where missing; no symbolic link is followed."""
        folder = self._base()
        try:
            for name in names:
                inner = _open_folder(name, folder)
                os.close(folder)
                folder = inner
            yield folder
        finally:
            os.close(folder)

    def _append_in(self, folder: int, path: str, lines: bytes) -> None:
        name = path.rpartition("/")[2]
        with self._locked(folder, name, path) as file:
            size = _mended_size(file)
            try:
                _write(file, lines)
                if self._config.fsync == "batch":
                    os.fsync(file)
                    if size == 0:
                        os.fsync(folder)
            except OSError:
                os.ftruncate(file, size)
                raise

    @contextmanager
    def _locked(self, folder: int, name: str, path: str) -> Iterator[int]:
        """Return the file, opened and locked; opened anew when it was rotated away meanwhile."""
        deadline = time.monotonic() + self._config.timeout_seconds
        while True:
            file = os.open(name, FILE_FLAGS, 0o644, dir_fd=folder)
            try:
                if not stat.S_ISREG(os.fstat(file).st_mode):
                    raise PermanentError(f"{path}: expected a regular file")
                _lock(file, path, deadline)
                if _is_still(file, name, folder):
                    yield file
                    return
            finally:
                os.close(file)


def _by_path(batch: Sequence[Line]) -> dict[str, list[int]]:
    """Places in the batch by file."""
    grouped: dict[str, list[int]] = {}
    for index, line in enumerate(batch):
        grouped.setdefault(line.path, []).append(index)
    return grouped


def _open_folder(name: str, parent: int) -> int:
    flags = FOLDER_FLAGS | os.O_NOFOLLOW
    try:
        return os.open(name, flags, dir_fd=parent)
    except FileNotFoundError:
        with suppress(FileExistsError):
            os.mkdir(name, dir_fd=parent)
            os.fsync(parent)
        return os.open(name, flags, dir_fd=parent)


def _lock(file: int, path: str, deadline: float) -> None:
    """``flock`` knows no timeout, hence the polling. Raises TransientError at the deadline."""
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise TransientError(f"{path}: locked by another process") from None
            time.sleep(LOCK_POLL_SECONDS)


def _is_still(file: int, name: str, folder: int) -> bool:
    try:
        now = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(now, os.fstat(file))


def _mended_size(file: int) -> int:
    """Return the size after cutting off what stands behind the last newline."""
    size = end = os.fstat(file).st_size
    while end > 0:
        start = max(0, end - TAIL_BYTES)
        newline = os.pread(file, end - start, start).rfind(b"\n")
        if newline >= 0:
            end = start + newline + 1
            break
        end = start
    if end < size:
        os.ftruncate(file, end)
    return end


def _write(file: int, lines: bytes) -> None:
    view = memoryview(lines)
    while view:
        view = view[os.write(file, view) :]


KIND = SinkKind(name="file", config=FileSinkConfig, payload=FilePayload, build=FileSink)
