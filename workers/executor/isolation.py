"""Isolation: what keeps a task's processes from outliving it, namespaces, death signals and marks.

Standard library only: the spawner imports this too.

A **mark** is the soft RLIMIT_RTTIME a process was born with: it means nothing to ordinary
scheduling, survives fork, exec, setsid and a cleared environment, and anyone of the same user can
read it. So every descendant of a task can be told, whoever adopted it.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import resource
import signal
import sys
import time
from collections.abc import Container
from contextlib import suppress

PID_NAMESPACE, GROUPS = "pid_namespace", "groups"

_CLONE_NEWNS, _CLONE_NEWUSER, _CLONE_NEWPID = 0x00020000, 0x10000000, 0x20000000
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 0x1, 0x2, 0x4, 0x8
_MS_REMOUNT, _MS_BIND, _MS_REC, _MS_SLAVE = 0x20, 0x1000, 0x4000, 0x80000
_PROC_FLAGS = _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_CAPBSET_DROP, _PR_SET_CHILD_SUBREAPER = 1, 4, 24, 36
_PR_SET_NO_NEW_PRIVS = 38
_SEEING_CAPABILITIES = {
    "CAP_SYS_MODULE": 16,
    "CAP_SYS_RAWIO": 17,
    "CAP_SYS_PTRACE": 19,
    "CAP_SYS_ADMIN": 21,
    "CAP_PERFMON": 38,
    "CAP_BPF": 39,
    "CAP_CHECKPOINT_RESTORE": 40,
}
"""With one of these, root reads the memory or the environment of any process (capabilities(7))."""
OF_THE_MACHINE = ("/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus", "/proc/fs")
"""Files of /proc that set the machine itself, whatever the PID namespace."""

_NS_GET_PID_IN_PIDNS = 0x8004B708

_MARK_BASE = 1 << 62
_SERIAL_BITS = 32
SERIAL_MASK = (1 << _SERIAL_BITS) - 1

_YIELD_ATTEMPTS, _YIELD_WAIT_SECONDS = 10, 0.11

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def set_parent_death_signal(number: int) -> None:
    """Have the kernel send this signal when the parent's thread that forked us ends."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0), "prctl(PR_SET_PDEATHSIG)")


def become_subreaper() -> None:
    """Adopt the orphans among our descendants, daemons included."""
    _check(_libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "prctl(PR_SET_CHILD_SUBREAPER)")


def hide_from_tasks() -> None:
    """Keep this process's memory, environment and descriptors from others of its user.

    Its files in /proc belong to root then, nobody of its user may trace it, and it dumps no core.
    Every process of ours that holds secrets asks for it first. Linux only: elsewhere nothing is
    done, and no worker runs.
    """
    if sys.platform != "linux":
        return
    _check(_libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0), "prctl(PR_SET_DUMPABLE)")


def withhold_sight() -> None:
    """Have no program started from now on hold a capability that sees through ``hide_from_tasks``.

    Only root has them to give. What cannot be withheld is left: a process without CAP_SETPCAP, or
    a kernel that does not know the newer ones.
    """
    for number in _SEEING_CAPABILITIES.values():
        _libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0)


def refuse_new_privileges() -> None:
    """Have no program started from now on become more than we are, by set-user-ID or its file's
    capabilities; nor can it undo this."""
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl(PR_SET_NO_NEW_PRIVS)")


def enter_pid_namespace() -> bool:
    """Make the next fork PID 1 of a new PID namespace; False where the kernel refuses."""
    try:
        _unshare(_CLONE_NEWPID | _CLONE_NEWNS)
        return True
    except OSError:
        return _enter_by_user_namespace()


def _unshare(flags: int) -> None:
    _check(_libc.unshare(flags), "unshare")


def _enter_by_user_namespace() -> bool:
    user, group = os.geteuid(), os.getegid()
    try:
        _unshare(_CLONE_NEWUSER | _CLONE_NEWPID | _CLONE_NEWNS)
        for name, text in (
            ("setgroups", "deny"),
            ("uid_map", f"{user} {user} 1"),
            ("gid_map", f"{group} {group} 1"),
        ):
            with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
                file.write(text)
    except OSError:
        return False
    return True


def mount_own_proc() -> bool:
    """Show only our namespace in /proc; False where that is not allowed."""
    try:
        # Slave, not private: what the host mounts later must reach the tasks.
        _check(_libc.mount(None, b"/", None, _MS_REC | _MS_SLAVE, None), "mount(/)")
        _check(_libc.mount(b"proc", b"/proc", b"proc", _PROC_FLAGS, None), "mount(/proc)")
    except OSError:
        return False
    return True


def protect_machine() -> None:
    """Have root write nothing ``OF_THE_MACHINE`` in the /proc that we mounted.

    Others cannot anyway, and under a /proc partly covered the kernel would refuse them one of
    their own. What this kernel has not, or does not let us cover, is left as it is.
    """
    if os.geteuid() != 0:
        return
    for name in OF_THE_MACHINE:
        path = name.encode()
        if _libc.mount(path, path, None, _MS_BIND, None) == 0:
            _libc.mount(None, path, None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY | _PROC_FLAGS, None)


def protect_cgroups() -> None:
    """Have nobody in our mount namespace write to a cgroup by its path: bounds of a task are not
    its own to change. What this kernel does not let us cover is left as it is.

    Descriptors opened before, by another mount namespace's mount, can still be written by.
    """
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        lines = [line.partition(" - ") for line in file]
    for fields, _, rest in lines:
        if rest.startswith("cgroup2 "):
            path = fields.split()[4].encode("utf-8", "surrogateescape").decode("unicode_escape")
            flags = _MS_REMOUNT | _MS_BIND | _MS_RDONLY | _PROC_FLAGS
            _libc.mount(None, path.encode("latin-1"), None, flags, None)


def spawner_mark(pid: int) -> int:
    """The mark of serial 0 of the spawner that knows itself by this pid."""
    return _MARK_BASE | pid << _SERIAL_BITS


def put_mark(mark: int) -> None:
    """Have what we start from now on carry this mark. Raises OSError where forbidden."""
    try:
        resource.setrlimit(resource.RLIMIT_RTTIME, (mark, resource.RLIM_INFINITY))
    except ValueError as exc:
        what = "RLIMIT_RTTIME: expected an unlimited hard limit (LimitRTTIME=infinity), got less"
        raise PermissionError(errno.EPERM, what) from exc


def yield_session(nice: int) -> None:
    """Have our session yield to others as a process of this niceness does to its like.

    Linux shares the CPU among sessions first where autogroup is on, and the niceness of processes
    counts within one only (sched(7)). Elsewhere there is nothing to do.
    """
    for _ in range(_YIELD_ATTEMPTS if nice else 0):
        try:
            with open("/proc/self/autogroup", "w", encoding="ascii") as file:
                file.write(str(nice))
        except BlockingIOError:  # Without privilege: one such change in 0.1 s on the whole machine.
            time.sleep(_YIELD_WAIT_SECONDS)
        except OSError:
            return
        else:
            return


def kill_marked(
    first_mark: int, *, spared: Container[int] = (), proc: str = "/proc", nested: bool = False
) -> int:
    """SIGKILL each process with a mark of this spawner whose serial is not spared.

    ``nested`` says that ``proc`` shows the numbers of an outer namespace. Returns how many were
    killed or were gone before their mark was read: 0 says that nothing is left, any other number
    that one of them may have forked behind our back, so look again.
    """
    unsure = 0
    for name in os.listdir(proc):
        if not name.isdigit():
            continue
        try:
            pid = _own_number(proc, name) if nested else int(name)
            if pid is not None and _is_stray(pid, first_mark, spared):
                unsure += kill_process(pid)
        except (FileNotFoundError, ProcessLookupError):
            unsure += 1
    return unsure


def _is_stray(pid: int, first_mark: int, spared: Container[int]) -> bool:
    try:
        serial = _serial(pid, first_mark)
    except PermissionError:  # Another user's: none of ours.
        return False
    return serial is not None and serial not in spared and pid != os.getpid()


def _serial(pid: int, first_mark: int) -> int | None:
    """The serial in a process's mark; None when it has no mark of this spawner."""
    serial = resource.prlimit(pid, resource.RLIMIT_RTTIME)[0] - first_mark
    return serial if 0 <= serial <= SERIAL_MASK else None


def _own_number(proc: str, name: str) -> int | None:
    try:
        with open(f"{proc}/{name}/status", encoding="ascii", errors="replace") as file:
            numbers = next(line.split() for line in file if line.startswith("NSpid:"))
    except StopIteration:
        return None
    return int(numbers[-1]) if len(numbers) > 2 else None


def kill_adopted(*, leaders: Container[int] = (), first_mark: int | None = None) -> int:
    """SIGKILL each child of ours that is no leader; with ``first_mark`` only if it has no mark.

    What a subreaper did not start itself is what tasks left behind; this finds those that changed
    their mark, too. Only where /proc shows our own namespace. Returns how many were killed.
    """
    killed = 0
    for pid in _children():
        with suppress(ProcessLookupError, PermissionError):
            if pid not in leaders and (first_mark is None or _serial(pid, first_mark) is None):
                killed += kill_process(pid)
    return killed


def _children() -> list[int]:
    try:
        with open("/proc/thread-self/children", encoding="ascii") as file:
            return [int(pid) for pid in file.read().split()]
    except FileNotFoundError:  # A kernel without CONFIG_PROC_CHILDREN.
        return []


def kill_process(pid: int) -> bool:
    """SIGKILL one process; False when it is gone or not ours to kill."""
    try:
        os.kill(pid, signal.SIGKILL)
    except OSError:
        return False
    return True


def signal_group(group: int, number: int) -> None:
    """Send a signal to a process group that may be gone."""
    try:
        os.killpg(group, number)
    except OSError:  # Nobody is left in it, or only what changed its user.
        return


def reap_orphans(leaders: Container[int]) -> list[int]:
    """Reap adopted processes; return the dead leaders found first, which stay unreaped."""
    while True:
        try:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return []
        if found is None:
            return []
        if found.si_pid in leaders:
            return [found.si_pid]
        os.waitpid(found.si_pid, os.WNOHANG)


class HostNumbers:
    """The host's numbers of processes in our PID namespace.

    The kernel is asked by ioctl where it can answer (Linux 6.11), else ``/proc/self/fdinfo``, which
    an undumpable process of an ordinary user cannot read (``needs_dumpable``). ``namespace`` is a
    descriptor of the host's PID namespace, ``fdinfo`` one of that directory in the host's /proc.
    """

    def __init__(self, namespace: int, fdinfo: int) -> None:
        self._namespace = namespace
        self._fdinfo = fdinfo
        self._has_ioctl = _number_in(namespace, os.getpid()) is not None

    @property
    def needs_dumpable(self) -> bool:
        """Whether our own ``/proc/self`` must stay ours."""
        return not self._has_ioctl and os.geteuid() != 0

    def of(self, pid: int, pidfd: int) -> int | None:
        """The number of a child of ours, zombies included; None when it is gone."""
        if self._has_ioctl:
            return _number_in(self._namespace, pid)
        return _number_by_fdinfo(pidfd, self._fdinfo)


def _number_in(namespace: int, pid: int) -> int | None:
    try:
        return fcntl.ioctl(namespace, _NS_GET_PID_IN_PIDNS, pid)
    except OSError:
        return None


def _number_by_fdinfo(pidfd: int, fdinfo: int) -> int | None:
    descriptor = os.open(str(pidfd), os.O_RDONLY, dir_fd=fdinfo)
    try:
        text = os.read(descriptor, 512)
    finally:
        os.close(descriptor)
    start = text.find(b"\nPid:") + 5
    number = int(text[start : text.index(b"\n", start)])
    return number if number > 0 else None
