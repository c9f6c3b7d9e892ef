"""Where the worker's tasks get cgroups (v2) of their own, found by trying.

Below a cgroup that was delegated to us::

    <base>/                  no process of its own, once controllers are handed down
      drakkar-worker/        workers, spawners, and the tasks without a cgroup
      drakkar-tasks-<hex>/   one for each worker, locked while it lives
        <spawner>-<serial>/  one for each task that has one (task_cgroup.py)

A cgroup is **delegated** if whoever made it says so: systemd by the attribute ``user.delegate``
(``Delegate=yes``), a container's runtime by making it the root of our cgroup namespace and mounting
it writable, an administrator by giving it to our user. Nothing else is touched: a manager that did
not delegate a cgroup may move our processes back and undo every limit. Reasons:
docs/decisions/0029-cgroup-of-a-task.md. Standard library only.
"""

from __future__ import annotations

import fcntl
import os
import re
import select
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from domain.value import value
from workers.executor.task_cgroup import FOLDER_FLAGS, figures, read_file, write_file

WORKER_LEAF = "drakkar-worker"
TASKS_PREFIX = "drakkar-tasks-"
CONTROLLERS = ("memory", "pids", "cpu")

MAX_CHARACTERS = 255
"""Longest text of what was found, as it is kept with the run."""

_PROC_SELF = Path("/proc/self")
_DELEGATED = ("user.delegate", "trusted.delegate")
_MOVES = 10
_NAMES = 10
_EMPTY_SECONDS = 0.5
_ESCAPED = re.compile(r"\\([0-7]{3})")


@value(frozen=True, slots=True, kw_only=True)
class Hierarchy:
    """The mount of cgroup v2 that shows us: its folder, and our own path below it."""

    mount: Path
    own: Path
    is_namespace_root: bool
    """Whether ``mount`` shows the root of our cgroup namespace, or the machine's own."""


@value(frozen=True, slots=True)
class Refused:
    """Tasks get no cgroups, for a reason in a few words."""

    reason: str

    def __str__(self) -> str:
        return f"none: {self.reason}"[:MAX_CHARACTERS]


class Unfit(Exception):
    """No base; the message is the reason."""


@dataclass(slots=True)
class Cgroups:
    """The worker's folder of its tasks' cgroups, held by a lock until ``close``.

    ``controllers`` are those in force below it. ``offered``: what the base could hand down.
    """

    base: Path
    folder: Path
    controllers: frozenset[str]
    offered: frozenset[str]
    _lock: int
    _nice: int
    _dead: set[int] = field(default_factory=set)

    def __str__(self) -> str:
        names = ", ".join(name for name in CONTROLLERS if name in self.offered)
        return f"tasks: {names or 'no limits'}"

    def hand_down_cpu(self) -> bool:
        """Have CPU bounds in force from now on; False where the kernel refuses.

        At need only: with it, the tasks that have cgroups share the CPU as one group beside all
        that is in the worker's own. That group yields as a process of the tasks' niceness would.
        """
        if "cpu" in self.offered and "cpu" not in self.controllers:
            if not _hand_down(self.base, "cpu") or not _hand_down(self.folder, "cpu"):
                self.offered -= {"cpu"}
                return False
            with _opened(self.folder) as fd, suppress(OSError):
                write_file(fd, "cpu.weight.nice", str(self._nice))
            self.controllers |= {"cpu"}
        return "cpu" in self.controllers

    def bury(self, spawner: int) -> None:
        """Kill what a dead spawner left; ``clear_away`` removes it."""
        self._dead.add(spawner)
        self.clear_away()

    def clear_away(self) -> None:
        """Remove what dead spawners left, as far as its processes are gone. Called now and then."""
        if not self._dead:
            return
        left = set()
        for entry in self.folder.glob("*-*"):
            number = entry.name.partition("-")[0]
            if not number.isdecimal():  # Made there by a task.
                continue
            if int(number) in self._dead and not _remove_tree(entry, 0.0):
                left.add(int(number))
        self._dead = left

    def close(self) -> None:
        """Kill and remove all tasks' cgroups and their folder; half a second is waited for the
        dying. What is left is removed by the next worker of this base."""
        _remove_tree(self.folder, _EMPTY_SECONDS)
        os.close(self._lock)


def prepare(nice: int = 0, proc: Path = _PROC_SELF) -> Cgroups | Refused:
    """Find the base, hand its controllers down and make our folder of tasks in it; ``nice`` is the
    tasks' niceness.

    Moves every process of the base into ``drakkar-worker`` where controllers are to be handed
    down: the kernel does not allow processes beside bounded groups. Where it is refused, nothing
    was changed but for such moves.
    """
    try:
        return _prepare(find_base(find_hierarchy(proc)), nice)
    except Unfit as exc:
        return Refused(str(exc))
    except OSError as exc:
        return Refused(f"{exc.strerror} ({exc.filename})" if exc.filename else str(exc.strerror))


def _prepare(base: Path, nice: int) -> Cgroups:
    with _opened(base) as fd:
        offered = frozenset(read_file(fd, "cgroup.controllers").decode().split())
        if read_file(fd, "cgroup.type").strip() != b"domain":
            raise Unfit(f"{base} is no domain of its own (cgroup.type)")
    _clear_leftovers(base)
    folder, lock = _make_folder(base)
    try:
        if not (folder / "cgroup.kill").exists():
            raise Unfit("the kernel has no cgroup.kill (Linux 5.14)")
        wanted = [name for name in ("memory", "pids") if name in offered]
        if offered & set(CONTROLLERS):
            _empty(base)
        given = frozenset(x for x in wanted if _hand_down(base, x) and _hand_down(folder, x))
    except BaseException:
        _remove_tree(folder, 0.0)
        os.close(lock)
        raise
    usable = given | offered & {"cpu"}
    return Cgroups(base, folder, given, usable, lock, nice)


# -- finding the base --


def find_hierarchy(proc: Path = _PROC_SELF) -> Hierarchy:
    """Find the mount that shows our own cgroup, writable ones first. Raises Unfit,
    OSError."""
    own = _own_path((proc / "cgroup").read_text())
    if own is None:
        raise Unfit("this process is in no cgroup v2")
    reason = "cgroup v2 is not mounted"
    for root, mount, options in mounts_of((proc / "mountinfo").read_text()):
        below = _below(own, root)
        if below is None:
            reason = f"cgroup v2 is mounted at {mount}, but our own cgroup is not in it"
        elif "ro" in options:
            reason = f"cgroup v2 is mounted read-only at {mount}"
        else:
            is_root = root == "/"
            return Hierarchy(mount=mount, own=mount / below, is_namespace_root=is_root)
    raise Unfit(reason)


def _own_path(text: str) -> str | None:
    lines = (line.split(":", 2) for line in text.splitlines())
    return next((path for number, _, path in lines if number == "0"), None)


def mounts_of(text: str) -> list[tuple[str, Path, set[str]]]:
    """Root, mount point and options of each mount of cgroup v2 (proc_pid_mountinfo(5))."""
    found = []
    for line in text.splitlines():
        fields, _, rest = line.partition(" - ")
        words = fields.split()
        if rest.split()[:1] == ["cgroup2"] and len(words) >= 6:
            options = {*words[5].split(","), *rest.split()[-1].split(",")}
            found.append((_plain(words[3]), Path(_plain(words[4])), options))
    return found


def _plain(escaped: str) -> str:
    return _ESCAPED.sub(lambda found: chr(int(found[1], 8)), escaped)


def _below(path: str, root: str) -> str | None:
    """``path`` seen from ``root``; None when it is not below it. ``..`` is beyond a namespace."""
    if ".." in path.split("/") or ".." in root.split("/"):
        return None
    prefix = root.rstrip("/") + "/"
    if path.rstrip("/") + "/" == prefix:
        return "."
    return path[len(prefix) :] if path.startswith(prefix) else None


def find_base(hierarchy: Hierarchy) -> Path:
    """Return the delegated cgroup: our own, or its parent where a subgroup of it was given to us
    (``DelegateSubgroup=``), or by another worker. Raises Unfit, OSError."""
    own = hierarchy.own
    candidates = [own] if own.name != WORKER_LEAF else []
    if own != hierarchy.mount:
        candidates.append(own.parent)
    for candidate in candidates:
        if _is_delegated(candidate, hierarchy):
            _check_writable(candidate)
            return candidate
    if _is_machine_root(own):
        raise Unfit("the worker runs in the machine's root cgroup")
    raise Unfit(f"{own} is not delegated to the worker")


def _is_delegated(cgroup: Path, hierarchy: Hierarchy) -> bool:
    if _is_machine_root(cgroup):
        return False
    if hierarchy.is_namespace_root and cgroup == hierarchy.mount:
        return True
    for name in _DELEGATED:
        with suppress(OSError):
            if os.getxattr(cgroup, name) == b"1":
                return True
    # Given to our user at this very level: below it, a manager of the user's may rule.
    user = os.geteuid()
    is_inner = cgroup != hierarchy.mount and cgroup.parent.stat().st_uid == user
    return user != 0 and cgroup.stat().st_uid == user and not is_inner


def _is_machine_root(cgroup: Path) -> bool:
    # Of all cgroups only the machine's root has no type, whatever a namespace calls its own root.
    return not (cgroup / "cgroup.type").exists()


def _check_writable(base: Path) -> None:
    for path in (base, base / "cgroup.procs", base / "cgroup.subtree_control"):
        if not os.access(path, os.W_OK):
            raise Unfit(f"{path} is not writable")


# -- preparing it --


def _empty(base: Path) -> None:
    """Move every process of the base into the worker's leaf. Raises Unfit, OSError."""
    with _opened(base) as fd:
        for _ in range(_MOVES):  # What was forking while we looked is found by the next look.
            pids = (base / "cgroup.procs").read_text().split()
            if not pids:
                return
            if "0" in pids:
                raise Unfit(f"{base} has processes of another PID namespace")
            with suppress(FileExistsError):
                os.mkdir(WORKER_LEAF, dir_fd=fd)
            for pid in pids:
                with suppress(ProcessLookupError):
                    write_file(fd, f"{WORKER_LEAF}/cgroup.procs", pid)
    raise Unfit(f"{base} gets new processes all the time")


def _hand_down(cgroup: Path, controller: str) -> bool:
    """Have the children of this cgroup bounded by this controller; False where that is refused."""
    with _opened(cgroup) as fd, suppress(OSError):
        write_file(fd, "cgroup.subtree_control", f"+{controller}")
        return True
    return False


def _make_folder(base: Path) -> tuple[Path, int]:
    """Make and lock our folder: a lock ends with the process, and tells leftovers from the living.
    Raises Unfit, OSError."""
    for _ in range(_NAMES):
        folder = base / (TASKS_PREFIX + os.urandom(6).hex())
        folder.mkdir()
        lock = os.open(folder, FOLDER_FLAGS)
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.exists():  # Else another worker took it for a leftover before it was locked.
            return folder, lock
        os.close(lock)
    raise Unfit(f"{base}: a folder made there does not stay")


def _clear_leftovers(base: Path) -> None:
    """Kill and remove what workers left that ended without doing it themselves."""
    for folder in base.glob(TASKS_PREFIX + "*"):
        with suppress(OSError):
            lock = os.open(folder, FOLDER_FLAGS)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove_tree(folder, _EMPTY_SECONDS)
            finally:
                os.close(lock)


def _remove_tree(folder: Path, seconds: float) -> bool:
    """Kill all that is in a cgroup of ours, wait so long for its end, and remove it with its
    children; False where something stays busy."""
    try:
        with _opened(folder) as fd:
            write_file(fd, "cgroup.kill", "1")
            _await_empty(fd, seconds)
            for child in folder.iterdir():
                if child.is_dir():
                    child.rmdir()
        folder.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _await_empty(fd: int, seconds: float) -> None:
    """Wait until no process in the cgroup or below lives. Raises OSError."""
    deadline = time.monotonic() + seconds
    events = os.open("cgroup.events", os.O_RDONLY | os.O_CLOEXEC, dir_fd=fd)
    try:
        poll = select.poll()
        poll.register(events, select.POLLPRI)  # Told at each change of the file (cgroup-v2).
        while figures(os.pread(events, 4096, 0)).get(b"populated", 0):
            left = deadline - time.monotonic()
            if left <= 0:
                return
            poll.poll(left * 1000.0)
    finally:
        os.close(events)


@contextmanager
def _opened(cgroup: Path) -> Iterator[int]:
    """Open a cgroup's folder for the files in it."""
    fd = os.open(cgroup, FOLDER_FLAGS)
    try:
        yield fd
    finally:
        os.close(fd)
