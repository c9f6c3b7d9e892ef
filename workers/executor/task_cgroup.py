"""The cgroup of one task: bounds and account of its whole tree of processes.

Standard library only: the spawner imports this. Where these cgroups are made, and why we may:
cgroups.py.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import NamedTuple

FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

NO_OOM, OOM_OF_TASK, OOM_ABOVE = 0, 1, 2
"""Kills for want of memory in a task's cgroup: none; at its own limit; at a limit above it."""

MEMORY_KILLS = {b"oom_kill", b"oom_group_kill"}
_PERIOD_MICROSECONDS = 100_000
_LEAST_QUOTA_MICROSECONDS = 1_000  # The kernel takes no less.
_READ_BYTES = 4096


class Bounds(NamedTuple):
    """Bounds of a tree of processes: bytes of memory, number of processes and threads, CPUs. None
    leaves it unbounded."""

    memory_bytes: int | None
    processes: int | None
    cpus: float | None


class TreeUse(NamedTuple):
    """Account of a tree of processes, since its cgroup was made.

    ``peak_bytes`` is None where the kernel does not tell it (before Linux 5.19, or without the
    memory controller). ``oom``: one of the three above.
    """

    user_seconds: float
    system_seconds: float
    peak_bytes: int | None
    oom: int


class TaskCgroup:
    """A cgroup that is ours; ``fd`` is its folder. Every method raises OSError."""

    __slots__ = ("fd", "name")

    def __init__(self, name: str, fd: int) -> None:
        self.name = name
        self.fd = fd

    def bound(self, bounds: Bounds) -> None:
        """Set the bounds, before any process is in it."""
        memory, processes, cpus = bounds
        if memory is not None:
            with suppress(FileNotFoundError):  # A kernel that does not account swap.
                write_file(self.fd, "memory.swap.max", "0")
            write_file(self.fd, "memory.oom.group", "1")
            write_file(self.fd, "memory.max", str(memory))
        if processes is not None:
            # The program itself counts: with none nothing could ever be started.
            write_file(self.fd, "pids.max", str(max(1, processes)))
        if cpus is not None:
            quota = max(_LEAST_QUOTA_MICROSECONDS, round(cpus * _PERIOD_MICROSECONDS))
            write_file(self.fd, "cpu.max", f"{quota} {_PERIOD_MICROSECONDS}")

    def enter(self) -> None:
        """Put the calling process into it."""
        write_file(self.fd, "cgroup.procs", "0")

    def kill(self) -> None:
        """SIGKILL every process in it, also one that left its group and session."""
        write_file(self.fd, "cgroup.kill", "1")

    def is_populated(self) -> bool:
        """Return whether a process in it lives."""
        return figures(read_file(self.fd, "cgroup.events")).get(b"populated", 0) != 0

    def is_out_of_memory(self) -> bool:
        """Return whether something in it was refused memory at its own limit."""
        events = _read_or_none(self.fd, "memory.events")
        return events is not None and figures(events).get(b"oom", 0) > 0

    def use(self) -> TreeUse:
        """Return what its processes used till now."""
        cpu = figures(read_file(self.fd, "cpu.stat"))
        peak = _read_or_none(self.fd, "memory.peak")
        events = _read_or_none(self.fd, "memory.events")
        return TreeUse(
            cpu[b"user_usec"] / 1e6,
            cpu[b"system_usec"] / 1e6,
            None if peak is None else int(peak),
            NO_OOM if events is None else oom_of(figures(events)),
        )


class CgroupMaker:
    """Makes and removes the cgroups of one spawner's tasks, below the folder of the worker's.

    ``spawner`` is a number that no other spawner of this worker ever had: names do not come twice.
    Opened before the spawner takes the writing of cgroups from what it starts.
    """

    def __init__(self, folder: str, spawner: int) -> None:
        self._folder = os.open(folder, FOLDER_FLAGS)
        self._spawner = spawner
        self._dying: list[TaskCgroup] = []

    def make(self, serial: int, bounds: Bounds) -> TaskCgroup:
        """Make the cgroup of the task of this serial. Raises OSError, and then there is none."""
        try:
            return self._make(f"{self._spawner}-{serial}", bounds)
        except OSError as exc:
            raise OSError(exc.errno, f"its cgroup cannot be made: {exc.strerror}") from exc

    def _make(self, name: str, bounds: Bounds) -> TaskCgroup:
        os.mkdir(name, dir_fd=self._folder)
        try:
            cgroup = TaskCgroup(name, os.open(name, FOLDER_FLAGS, dir_fd=self._folder))
        except OSError:
            os.rmdir(name, dir_fd=self._folder)
            raise
        try:
            cgroup.bound(bounds)
        except OSError:
            self._remove(cgroup)
            raise
        return cgroup

    def close(self, cgroup: TaskCgroup) -> TreeUse | None:
        """Kill what is left in it, remove it, now or by ``clear_away``, and return what was used;
        None where that is not known: somebody else removed it.
        """
        try:
            if cgroup.is_populated():
                cgroup.kill()
            use = cgroup.use()
        except OSError:
            use = None
        if not self._remove(cgroup):
            self._dying.append(cgroup)
        return use

    def clear_away(self) -> bool:
        """Remove what was not empty when it was closed; True while something is left."""
        self._dying = [cgroup for cgroup in self._dying if not self._remove(cgroup)]
        return bool(self._dying)

    def _remove(self, cgroup: TaskCgroup) -> bool:
        try:
            os.rmdir(cgroup.name, dir_fd=self._folder)
        except FileNotFoundError:
            pass
        except OSError:  # Its last processes are still dying.
            return False
        os.close(cgroup.fd)
        return True


def oom_of(events: dict[bytes, int]) -> int:
    """Tell from a cgroup's ``memory.events`` whether it lost processes, and by whose limit."""
    if not any(events.get(name) for name in MEMORY_KILLS):
        return NO_OOM
    return OOM_OF_TASK if events.get(b"oom") else OOM_ABOVE


def figures(text: bytes) -> dict[bytes, int]:
    """Read the kernel's lines of a name and a whole number; other lines are passed over."""
    found = {}
    for line in text.splitlines():
        name, _, number = line.partition(b" ")
        if number.isdigit():
            found[name] = int(number)
    return found


def read_file(folder: int, name: str) -> bytes:
    """Return the head of a control file of the cgroup, at most 4 KiB. Raises OSError."""
    descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder)
    try:
        return os.read(descriptor, _READ_BYTES)
    finally:
        os.close(descriptor)


def _read_or_none(folder: int, name: str) -> bytes | None:
    try:
        return read_file(folder, name)
    except FileNotFoundError:
        return None


def write_file(folder: int, name: str, text: str) -> None:
    """Write a control file of the cgroup. Raises OSError."""
    descriptor = os.open(name, os.O_WRONLY | os.O_CLOEXEC, dir_fd=folder)
    try:
        os.write(descriptor, text.encode("ascii"))
    finally:
        os.close(descriptor)
