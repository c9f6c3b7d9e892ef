"""The launcher in C, where it was built (``make`` does it): ``launch.c`` says what it does.

Standard library only: runs inside the spawner process.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from workers.executor.isolation import HostNumbers
from workers.executor.launching import Child, Launcher, Used, close_child
from workers.executor.limited import ProcessBounds
from workers.executor.task_cgroup import CgroupMaker

LIBRARY = Path(__file__).with_name("launch.so")

_MAX_LIMITS = 8


class _Limit(ctypes.Structure):
    _fields_ = (
        ("resource", ctypes.c_int),
        ("soft", ctypes.c_uint64),
        ("hard", ctypes.c_uint64),
    )


class _Request(ctypes.Structure):
    _fields_ = (
        ("path", ctypes.c_char_p),
        ("mark", ctypes.c_uint64),
        ("stdin_fd", ctypes.c_int),
        ("nice", ctypes.c_int),
        ("cgroup_fd", ctypes.c_int),
        ("limit_count", ctypes.c_int),
        ("limits", _Limit * _MAX_LIMITS),
        ("pid", ctypes.c_int),
        ("pidfd", ctypes.c_int),
        ("output_fd", ctypes.c_int),
        ("error_fd", ctypes.c_int),
        ("progress_fd", ctypes.c_int),
    )


class _Ended(ctypes.Structure):
    _fields_ = (
        ("status", ctypes.c_int),
        ("output_size", ctypes.c_int64),
        ("error_size", ctypes.c_int64),
        ("progress_size", ctypes.c_int64),
        ("max_rss_bytes", ctypes.c_int64),
        ("user_seconds", ctypes.c_double),
        ("system_seconds", ctypes.c_double),
    )


def make_launcher(
    wanted: str,
    first_mark: int,
    host_numbers: HostNumbers | None,
    nice: int,
    cgroups: CgroupMaker | None,
) -> Launcher:
    """The launcher in force: the wanted one, or that in Python where the library is missing."""
    library = load() if wanted == NativeLauncher.name else None
    if library is None:
        return Launcher(first_mark, host_numbers, nice, cgroups)
    return NativeLauncher(first_mark, host_numbers, nice, cgroups, library)


def load() -> ctypes.PyDLL | None:
    """Load the library; None where it was not built, or for another machine or release."""
    try:
        # PyDLL: the spawner has one thread, so nobody waits for the interpreter meanwhile.
        library = ctypes.PyDLL(str(LIBRARY))
        source = ctypes.addressof(ctypes.c_char.in_dll(library, "drakkar_source"))
        if ctypes.string_at(source) != LIBRARY.with_name("launch.c").read_bytes():
            return None
    except (OSError, ValueError):
        return None
    text, number = ctypes.c_char_p, ctypes.c_int
    library.drakkar_start.argtypes = (ctypes.c_void_p, text, number, text, number)
    library.drakkar_collect.argtypes = (*(number,) * 5, ctypes.c_void_p)
    return library


class NativeLauncher(Launcher):
    """Does in one call each what ``Launcher`` does in many."""

    name = "native"

    def __init__(
        self,
        first_mark: int,
        host_numbers: HostNumbers | None,
        nice: int,
        cgroups: CgroupMaker | None,
        library: ctypes.PyDLL,
    ) -> None:
        super().__init__(first_mark, host_numbers, nice, cgroups)
        self._library = library
        self._request = _Request(nice=self._nice)
        self._ended = _Ended()
        self._at = ctypes.addressof(self._request), ctypes.addressof(self._ended)
        self._output = ctypes.addressof(ctypes.c_char.in_dll(library, "drakkar_output"))
        self._errors = ctypes.addressof(ctypes.c_char.in_dll(library, "drakkar_errors"))
        self._progress = ctypes.addressof(ctypes.c_char.in_dll(library, "drakkar_progress"))

    def _start(
        self,
        child: Child,
        path: str,
        argv: Sequence[str],
        env: Mapping[str, str],
        source: int,
        limits: Sequence[int | None] | None,
    ) -> None:
        request = self._request
        request.path = _joined((path,))
        request.mark = self._first_mark + child.serial
        request.stdin_fd = source
        request.cgroup_fd = -1 if child.cgroup is None else child.cgroup.fd
        request.limit_count = self._set_limits(self._bounds(limits))
        if "" in env or "=" in "".join(env):
            raise ValueError("illegal environment variable name")
        variables = [f"{name}={value}" for name, value in env.items()]
        code = self._library.drakkar_start(
            self._at[0], _joined(argv), len(argv), _joined(variables), len(variables)
        )
        if code:
            raise OSError(code, os.strerror(code), path)
        child.pid, child.pidfd = request.pid, request.pidfd
        child.output_fd, child.error_fd = request.output_fd, request.error_fd
        child.progress_fd = request.progress_fd

    def _set_limits(self, bounds: ProcessBounds) -> int:
        for place, (kind, (soft, hard)) in zip(self._request.limits, bounds, strict=False):
            place.resource, place.soft, place.hard = kind, soft, hard
        return len(bounds)

    def collect(self, child: Child) -> tuple[int, Used]:
        """See ``Launcher.collect``."""
        ended = self._ended
        code = self._library.drakkar_collect(
            child.pid,
            child.pidfd,
            child.output_fd,
            child.error_fd,
            child.progress_fd,
            self._at[1],
        )
        if code:
            raise OSError(code, os.strerror(code))
        child.pidfd = child.output_fd = child.error_fd = child.progress_fd = -1
        close_child(child)
        if ended.output_size:
            child.output.add(ctypes.string_at(self._output, ended.output_size))
        if ended.error_size:
            child.errors.add(ctypes.string_at(self._errors, ended.error_size))
        if ended.progress_size:
            child.take_progress(ctypes.string_at(self._progress, ended.progress_size))
        used = (ended.user_seconds, ended.system_seconds, ended.max_rss_bytes, None)
        return ended.status, used


def _joined(words: Iterable[str]) -> bytes:
    """The words as the library takes them. Raises ValueError for a zero byte in one."""
    listed = tuple(words)
    text = "\0".join(listed)
    if listed and text.count("\0") != len(listed) - 1:
        raise ValueError("embedded null byte")
    return os.fsencode(text)
