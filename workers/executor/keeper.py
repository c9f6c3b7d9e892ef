"""The spawner's parent: makes it PID 1 of a namespace if it can, and cleans up when it dies.

Standard library only: runs inside the spawner's first process.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import NamedTuple, NoReturn

from workers.executor.isolation import (
    GROUPS,
    PID_NAMESPACE,
    HostNumbers,
    become_subreaper,
    enter_pid_namespace,
    hide_from_tasks,
    kill_adopted,
    kill_marked,
    mount_own_proc,
    protect_cgroups,
    protect_machine,
    refuse_new_privileges,
    set_parent_death_signal,
    spawner_mark,
    withhold_sight,
)

_SIGNALS = {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
_CLEAN_UP_SECONDS = 1.0
_STUCK_SECONDS = 0.5


class Place(NamedTuple):
    """Place of the spawner. ``host_numbers``, ``is_nested``: see Launcher and kill_marked."""

    tier: str
    host_pid: int
    first_mark: int
    host_numbers: HostNumbers | None
    is_nested: bool
    keeper_fd: int


def run_kept(
    worker_pid: int,
    tier: str,
    serve: Callable[[Place], None],
    stream_fd: int,
    *,
    has_cgroups: bool,
) -> NoReturn:
    """Fork; ``serve`` in the child; keep watch in the parent. The parent takes the child's end.

    ``has_cgroups`` keeps what is started from changing cgroups by their mount, where it can.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    set_parent_death_signal(signal.SIGTERM)
    become_subreaper()
    if os.getppid() != worker_pid:
        os._exit(1)
    host_namespace = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    is_namespace = tier == PID_NAMESPACE and enter_pid_namespace()
    watch_fd, alive_fd = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(alive_fd)
        _ignore_signals()
        place = _settle(PID_NAMESPACE if is_namespace else GROUPS, watch_fd, host_namespace)
        if has_cgroups and is_namespace:
            protect_cgroups()
        _hide(place)
        serve(place)
        os._exit(0)
    hide_from_tasks()
    os.close(host_namespace)
    os.close(watch_fd)
    os.close(stream_fd)
    _keep(pid, worker_pid, is_namespace)


def _ignore_signals() -> None:
    # A terminal's or a service manager's SIGTERM is for the worker, which drains first.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


def _hide(place: Place) -> None:
    withhold_sight()
    refuse_new_privileges()
    # By a user namespace we hold capabilities that no task has: the kernel lets none look at us.
    if place.host_numbers is None or not place.host_numbers.needs_dumpable:
        hide_from_tasks()


def _settle(tier: str, keeper_fd: int, host_namespace: int) -> Place:
    if tier == GROUPS:
        become_subreaper()
        pid = os.getpid()
        return Place(tier, pid, spawner_mark(pid), None, False, keeper_fd)
    set_parent_death_signal(signal.SIGKILL)
    # The old /proc still tells our number on the host.
    host_pid = int(os.readlink("/proc/self"))
    fdinfo = os.open("/proc/self/fdinfo", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    numbers = HostNumbers(host_namespace, fdinfo)
    is_nested = not mount_own_proc()
    if not is_nested:
        protect_machine()
    return Place(tier, host_pid, spawner_mark(os.getpid()), numbers, is_nested, keeper_fd)


def _keep(pid: int, worker_pid: int, is_namespace: bool) -> NoReturn:
    kill_at: float | None = None
    while True:
        if kill_at is not None and time.monotonic() >= kill_at:
            os.kill(pid, signal.SIGKILL)
            kill_at = None
        signal.sigtimedwait(_SIGNALS, 0.1 if kill_at is not None else 3600)
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            break
        if os.getppid() != worker_pid and kill_at is None:
            kill_at = time.monotonic() + _STUCK_SECONDS
    if not is_namespace:
        _clean_up(spawner_mark(pid))
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def _clean_up(first_mark: int) -> None:
    deadline = time.monotonic() + _CLEAN_UP_SECONDS
    while kill_marked(first_mark) + kill_adopted() and time.monotonic() < deadline:
        signal.sigtimedwait({signal.SIGCHLD}, 0.01)
        _reap_all()


def _reap_all() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return
