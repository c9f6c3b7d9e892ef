"""Starting a program under limits that hold from its first instruction.

Standard library only: the spawner imports this. ``posix_spawn`` knows no limits, and limits set on
a process that runs already miss what it forked meanwhile; so these programs are started by a fork
of the spawner (small, one thread), which limits itself before it becomes the program.
"""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Mapping, Sequence
from typing import NoReturn

from workers.executor.task_cgroup import TaskCgroup

RESOURCES = (
    resource.RLIMIT_CPU,
    resource.RLIMIT_AS,
    resource.RLIMIT_NOFILE,
    resource.RLIMIT_FSIZE,
    resource.RLIMIT_NPROC,
)
"""In the order of a request's ``limits``."""

# What this interpreter or the spawner ignores must not be ignored by the program.
DEFAULT_SIGNALS = (
    signal.SIGPIPE,
    signal.SIGXFSZ,
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
)

ProcessBounds = list[tuple[int, tuple[int, int]]]
"""The (soft, hard) limit of each resource."""

FILES_OF_A_TASK = 6
"""Descriptors that a spawner holds of a task: three pipes, its stdin, its process, its cgroup."""
_FILES_BESIDE = 64

_REPORT_BYTES = 4096


def bounds_of(limits: Sequence[int | None], ceilings: Mapping[int, int]) -> ProcessBounds:
    """The (soft, hard) limit of each resource asked for, none above our own hard limits."""
    found = []
    for kind, wanted in zip(RESOURCES, limits, strict=True):
        if wanted is None:
            continue
        ceiling = ceilings[kind]
        soft = wanted if ceiling == resource.RLIM_INFINITY else min(wanted, ceiling)
        hard = soft
        if kind == resource.RLIMIT_CPU and ceiling == resource.RLIM_INFINITY:
            hard = soft + 1  # SIGXCPU first, so that the cause can be read from the signal.
        found.append((kind, (soft, hard)))
    return found


def make_room(tasks: int) -> tuple[int, int] | None:
    """Raise our own soft limit of open files to what so many tasks at once take, as far as the hard
    one allows. Returns both limits as they were, for the programs; None: nothing was changed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = tasks * FILES_OF_A_TASK + _FILES_BESIDE
    if soft == resource.RLIM_INFINITY or soft >= wanted or soft == hard:
        return None
    raised = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
    return soft, hard


def start_limited(
    path: str,
    argv: Sequence[str],
    env: Mapping[str, str],
    streams: Sequence[int],
    bounds: ProcessBounds,
    cgroup: TaskCgroup | None,
) -> int:
    """Start the program in a process group of its own and return its process number.

    ``cgroup`` is where it is put, None: where we are. ``streams`` become its descriptors from 0 on:
    standard input, output and error, and progress. Returns once it runs. Raises OSError or
    ValueError (bad argv, env) where it cannot be started.
    """
    report, write_end = os.pipe()
    try:
        pid = os.fork()
        if pid == 0:
            _become(path, argv, env, streams, bounds, cgroup, write_end)
    finally:
        os.close(write_end)
    try:
        problem = os.read(report, _REPORT_BYTES)
    finally:
        os.close(report)
    if problem:
        os.waitpid(pid, 0)
        code, _, text = problem.decode(errors="replace").partition(" ")
        raise OSError(int(code), os.strerror(int(code)), path) if int(code) else ValueError(text)
    return pid


def _become(
    path: str,
    argv: Sequence[str],
    env: Mapping[str, str],
    streams: Sequence[int],
    bounds: ProcessBounds,
    cgroup: TaskCgroup | None,
    report: int,
) -> NoReturn:
    try:
        if cgroup is not None:
            cgroup.enter()
        os.setpgid(0, 0)
        for target, source in enumerate(streams):
            os.dup2(source, target)
        for number in DEFAULT_SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        for kind, both in bounds:
            resource.setrlimit(kind, both)
        os.execve(path, list(argv), dict(env))
    except OSError as exc:
        os.write(report, f"{exc.errno or 0} {exc}".encode()[:_REPORT_BYTES])
    except BaseException as exc:  # noqa: BLE001 - a copy of the spawner must not go on
        os.write(report, f"0 {exc!r}".encode(errors="replace")[:_REPORT_BYTES])
    os._exit(127)
