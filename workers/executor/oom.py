"""Whether the kernel killed a process for want of memory: what the worker's own cgroup counts."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from pathlib import Path

REMEMBERED_NOTES = 4
OWN_GROUPS = Path("/proc/self/cgroup")
MOUNT = Path("/sys/fs/cgroup")


def kill_counter(groups: Path = OWN_GROUPS, mount: Path = MOUNT) -> Path | None:
    """The file in which the kernel counts ``oom_kill`` of this process's cgroup; None: it tells
    nothing here."""
    return next((path for path in _candidates(groups, mount) if _count(path) is not None), None)


def _candidates(groups: Path, mount: Path) -> Iterator[Path]:
    # Inside a container the mount shows our own group as its root, whatever its path outside.
    try:
        lines = groups.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        below = path.lstrip("/")
        if controllers == "":
            yield from (mount / below / "memory.events", mount / "memory.events")
        elif "memory" in controllers.split(","):
            root = mount / "memory"
            yield from (root / below / "memory.oom_control", root / "memory.oom_control")


def _count(path: Path) -> int | None:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    found = (line.split() for line in lines)
    return next((int(words[1]) for words in found if words[:1] == ["oom_kill"]), None)


class OomWatch:
    """Says of a SIGKILL that nobody here sent whether it was the kernel's for want of memory.

    A counted kill explains one death. One that none of ours died of (a grandchild, another program
    of the same cgroup) explains nothing after a few notes: what is not known to be ``oom`` is not
    called so.
    """

    def __init__(self, counter: Path | None) -> None:
        self._counter = counter
        self._spent = self._read()
        self._notes = deque([self._spent] * REMEMBERED_NOTES, maxlen=REMEMBERED_NOTES)

    def note(self) -> None:
        """Called every half second: kills of some notes ago are too old to explain a death."""
        if self._counter is not None:
            self._spent = max(self._spent, self._notes[0])
            self._notes.append(self._read())

    def explains(self) -> bool:
        """Whether a death just now was such a kill; each kill is used once."""
        if self._counter is None or self._read() <= self._spent:
            return False
        self._spent += 1
        return True

    def _read(self) -> int:
        found = None if self._counter is None else _count(self._counter)
        return 0 if found is None else found
