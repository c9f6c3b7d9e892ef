"""Starting one process for a task. Standard library only: the spawner imports this too."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import signal
import sys
import termios
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from resource import RLIMIT_NOFILE

from workers.executor.capture import READ_BYTES, EndsCapture, HeadCapture
from workers.executor.frames import EXITED
from workers.executor.isolation import HostNumbers, put_mark, signal_group
from workers.executor.limited import (
    DEFAULT_SIGNALS,
    RESOURCES,
    ProcessBounds,
    bounds_of,
    make_room,
    start_limited,
)
from workers.executor.live_output import LiveOutput
from workers.executor.progress import PROGRESS_FD, Progress
from workers.executor.task_cgroup import Bounds, CgroupMaker, TaskCgroup

MAX_KNOWN_PROGRAMS = 1000
"""Paths remembered: a task may bring a PATH of its own, and each message another one."""

_MAX_DRAIN_READS = 17  # A pipe holds at most 1 MiB by default.

Used = tuple[float, float, int, int | None]
"""Seconds of CPU as user and as system, the most memory held, in bytes, and what its cgroup told of
kills for want of memory (``TreeUse.oom``), None: it had none."""


NOTHING_USED: Used = (0.0, 0.0, 0, None)


class Child:
    """A running process of ours. ``input_fd`` is None once its stdin is written or refused.

    ``is_read``: its output is read as it comes; ``sign_at``: when it last gave a sign of life;
    ``stall_seconds``: how long it may give none, None: for ever. ``progress`` is None until it
    tells some, ``live`` unless somebody follows its output, ``cgroup`` where it has none of its
    own.
    """

    __slots__ = (
        "cgroup",
        "error_fd",
        "errors",
        "grace_seconds",
        "host_pid",
        "input_fd",
        "is_read",
        "is_told",
        "live",
        "number",
        "output",
        "output_fd",
        "pid",
        "pidfd",
        "progress",
        "progress_fd",
        "reason",
        "serial",
        "sign_at",
        "slot",
        "stall_seconds",
        "started_at",
        "stdin",
        "taken_at",
        "watched",
    )

    keeps_input = False
    """Whether its stdin is a pipe that stays open, whatever is written to it."""

    def __init__(self, number: int, serial: int, slot: int) -> None:
        self.number = number
        self.serial = serial
        self.slot = slot
        self.taken_at = time.monotonic()
        self.is_told = self.is_read = False
        self.reason = EXITED
        self.started_at = self.sign_at = 0.0
        self.pid = self.pidfd = self.output_fd = self.error_fd = self.progress_fd = -1
        self.host_pid: int | None = None
        self.input_fd: int | None = None
        self.cgroup: TaskCgroup | None = None
        self.watched: set[int] = set()
        self.progress: Progress | None = None
        self.live: LiveOutput | None = None

    def expect(
        self,
        stdin: bytes,
        max_out: int,
        max_err: int,
        grace_seconds: float,
        stall_seconds: float | None,
    ) -> None:
        """Take what it gets, what of it is kept, and how it may be ended."""
        self.stdin = memoryview(stdin)
        self.output = HeadCapture(max_out)
        self.errors = EndsCapture(max_err)
        self.grace_seconds = grace_seconds
        self.stall_seconds = stall_seconds

    def take_progress(self, data: bytes) -> bool:
        """Take in what it wrote to its descriptor of progress; True when it told something."""
        if self.progress is None:
            self.progress = Progress()
        return self.progress.feed(data)


class Launcher:
    """Starts processes in a group of their own, marked with their serial, and collects them.

    ``nice`` is how much they yield to other processes (0 to 19, see nice(2)), at least as much as
    we do; ``host_numbers`` tells the host's numbers of our processes, None when ours are the host's
    already; ``cgroups`` makes those of tasks, None where there are none.
    """

    name = "python"
    """How it is called where the one in force is told."""

    def __init__(
        self,
        first_mark: int,
        host_numbers: HostNumbers | None,
        nice: int,
        cgroups: CgroupMaker | None,
    ) -> None:
        # Now: where it is forbidden no task can be run, and none is at fault.
        put_mark(first_mark)
        self._first_mark = first_mark
        self._host_numbers = host_numbers
        # To yield less than we do takes a right: without it, no task could be started.
        self._nice = nice if nice > os.getpriority(os.PRIO_PROCESS, 0) else 0
        self._cgroups = cgroups
        self._null = _open_null()
        self._home = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._is_away = False
        self._programs: dict[tuple[str, str], str] = {}
        self._hard_limits = {kind: resource.getrlimit(kind)[1] for kind in RESOURCES}
        self._files: tuple[int, int] | None = None

    def make_room(self, tasks: int) -> None:
        """Have descriptors for so many tasks at once; programs keep the limit that we had."""
        self._files = make_room(tasks)

    def launch(
        self,
        child: Child,
        argv: Sequence[str],
        env: Mapping[str, str],
        cwd: str | None,
        limits: Sequence[int | None] | None,
        bounds: Bounds | None,
    ) -> None:
        """Start the process and fill in the child; with ``bounds`` in a cgroup of its own. Raises
        OSError or ValueError (bad argv, env)."""
        self._enter(cwd)
        if not argv:
            raise ValueError("argv is empty")
        path = self._find(argv[0], env)
        source = self._null
        try:
            if child.stdin or child.keeps_input:
                source, child.input_fd = os.pipe()
                os.set_blocking(child.input_fd, False)
            child.started_at = child.sign_at = time.monotonic()
            if bounds is not None and self._cgroups is not None:
                child.cgroup = self._cgroups.make(child.serial, bounds)
            self._start(child, path, argv, env, source, limits)
            self._learn_host_pid(child)
        except BaseException as exc:
            abandon(child)
            is_too_little = _is_too_little(child, exc)
            self.leave_cgroup(child, NOTHING_USED)
            if is_too_little:
                raise ValueError("memory_bytes is too little to start the program") from exc
            raise
        finally:
            if source != self._null:
                os.close(source)

    def _enter(self, cwd: str | None) -> None:
        # Anew for each: the directory may have been made again, or its link now leads elsewhere.
        if cwd is None and not self._is_away:
            return
        # A relative directory is meant from where the worker was started.
        os.fchdir(self._home)
        self._is_away = cwd is not None
        if cwd is not None:
            os.chdir(cwd)

    def _start(
        self,
        child: Child,
        path: str,
        argv: Sequence[str],
        env: Mapping[str, str],
        source: int,
        limits: Sequence[int | None] | None,
    ) -> None:
        put_mark(self._first_mark + child.serial)
        theirs: list[int] = []
        try:
            child.output_fd, write_end = os.pipe()
            theirs.append(write_end)
            child.error_fd, write_end = os.pipe()
            theirs.append(write_end)
            child.progress_fd, write_end = os.pipe()
            theirs.append(write_end)
            child.pid = self._spawn(child, path, argv, env, (source, *theirs), limits)
            if self._nice:
                os.setpriority(os.PRIO_PGRP, child.pid, self._nice)
            child.pidfd = os.pidfd_open(child.pid)
        finally:
            close_all(theirs)

    def _spawn(
        self,
        child: Child,
        path: str,
        argv: Sequence[str],
        env: Mapping[str, str],
        streams: Sequence[int],
        limits: Sequence[int | None] | None,
    ) -> int:
        bounds = self._bounds(limits)
        if bounds or child.cgroup is not None:
            return start_limited(path, argv, env, streams, bounds, child.cgroup)
        return os.posix_spawn(
            path,
            list(argv),
            env,
            file_actions=[(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(streams)],
            setpgroup=0,  # A session each would take a whole share of the CPU each: sched(7).
            setsigmask=(),
            setsigdef=DEFAULT_SIGNALS,
        )

    def _bounds(self, limits: Sequence[int | None] | None) -> ProcessBounds:
        """Limits of the process, in the order in which they are set."""
        bounds = [] if limits is None else bounds_of(limits, self._hard_limits)
        if self._files is not None and RLIMIT_NOFILE not in dict(bounds):
            bounds.append((RLIMIT_NOFILE, self._files))
        return bounds

    def collect(self, child: Child) -> tuple[int, Used]:
        """Kill what is left of an ended process's group, take its last output and reap it. Returns
        its wait status and what it used; closes what we hold of it."""
        # Before reaping: the zombie keeps the group's number from being used again.
        signal_group(child.pid, signal.SIGKILL)
        _drain(child.output_fd, child.output)
        _drain(child.error_fd, child.errors)
        if told := waiting_bytes(child.progress_fd):
            child.take_progress(os.read(child.progress_fd, told))
        _, status, usage = os.wait4(child.pid, 0)
        close_child(child)
        return status, (usage.ru_utime, usage.ru_stime, usage.ru_maxrss * 1024, None)

    def leave_cgroup(self, child: Child, used: Used) -> Used:
        """Kill what is left in an ended process's cgroup, whatever group it is in, and remove it.
        Returns what its whole tree used, ``used`` where that is not known."""
        if child.cgroup is None or self._cgroups is None:
            return used
        cgroup, child.cgroup = child.cgroup, None
        use = self._cgroups.close(cgroup)
        if use is None:
            return used
        peak = used[2] if use.peak_bytes is None else use.peak_bytes
        return use.user_seconds, use.system_seconds, peak, use.oom

    def clear_away(self) -> bool:
        """Remove the cgroups of ended processes that were not empty yet; True while one is not."""
        return self._cgroups is not None and self._cgroups.clear_away()

    def _find(self, program: str, env: Mapping[str, str]) -> str:
        """The program's path; a bare name is looked up in the PATH the program itself will see."""
        if "/" in program:
            return program
        key = (program, env.get("PATH", os.defpath))
        known = self._programs.get(key)
        if known is not None and os.access(known, os.X_OK):
            return known
        for folder in key[1].split(os.pathsep):
            path = f"{folder or '.'}/{program}"
            if os.access(path, os.X_OK) and not os.path.isdir(path):
                if len(self._programs) >= MAX_KNOWN_PROGRAMS:
                    self._programs.clear()
                self._programs[key] = path
                return path
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), program)

    def _learn_host_pid(self, child: Child) -> None:
        if self._host_numbers is None:
            child.host_pid = child.pid
        else:
            child.host_pid = self._host_numbers.of(child.pid, child.pidfd)


def _drain(descriptor: int, capture: HeadCapture | EndsCapture) -> None:
    """Read no more than is in the pipe, so that nothing waits; bounded, since an escaped daemon
    may go on writing."""
    for _ in range(_MAX_DRAIN_READS):
        if not (size := waiting_bytes(descriptor)):
            return
        capture.add(os.read(descriptor, min(size, READ_BYTES)))


def waiting_bytes(descriptor: int) -> int:
    """How much can be read from a pipe without waiting."""
    there = fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4))
    return int.from_bytes(there, sys.byteorder)


def _open_null() -> int:
    """Open the empty input, and leave none of the numbers free that a program's descriptors have:
    one of ours with such a number would be lost in the program."""
    while (null := os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)) <= PROGRESS_FD:
        pass
    return null


def _is_too_little(child: Child, problem: BaseException) -> bool:
    """Whether it was the task's own bound that refused memory, and not the machine."""
    is_refused = isinstance(problem, OSError) and problem.errno == errno.ENOMEM
    return is_refused and child.cgroup is not None and child.cgroup.is_out_of_memory()


def kill_tree(child: Child) -> None:
    """SIGKILL its process group, and where it has a cgroup all that ever came of it."""
    if child.cgroup is not None:
        with suppress(OSError):  # Somebody else removed it.
            child.cgroup.kill()
    signal_group(child.pid, signal.SIGKILL)


def abandon(child: Child) -> None:
    """Undo a half-made start."""
    if child.pid > 0:
        signal_group(child.pid, signal.SIGKILL)
        os.waitpid(child.pid, 0)
    close_child(child)


def close_child(child: Child) -> None:
    """Close what we hold of it."""
    ours = (child.pidfd, child.output_fd, child.error_fd, child.progress_fd)
    close_all(fd for fd in ours if fd >= 0)
    if child.input_fd is not None:
        os.close(child.input_fd)
        child.input_fd = None
    child.pidfd = child.output_fd = child.error_fd = child.progress_fd = -1


def close_all(descriptors: Iterable[int]) -> None:
    """Close each descriptor."""
    for descriptor in descriptors:
        os.close(descriptor)
