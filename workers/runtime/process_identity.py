"""Identity of the process of a run: a process number alone names many, one in each container and
boot."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_PID_NAMESPACE = Path("/proc/self/ns/pid")
_START_FIELD = 19  # of /proc/<pid>/stat after the program's name: "starttime" of proc(5)


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """Process of one boot and one PID namespace.

    ``place`` names both; ``started_ticks`` is when it started, in clock ticks since the boot: a
    process number is used again, that moment is not.
    """

    place: str
    started_ticks: int

    @classmethod
    def own(cls) -> Self | None:
        """Return this process's; None where /proc does not tell."""
        try:
            boot = _BOOT_ID.read_text(encoding="ascii").strip()
            namespace = _PID_NAMESPACE.readlink().name
        except OSError:
            return None
        ticks = started_ticks(os.getpid())
        return None if ticks is None else cls(f"{boot} {namespace}", ticks)

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Read what ``str`` wrote; None for any other text."""
        place, _, ticks = text.rpartition(" ")
        return cls(place, int(ticks)) if place and ticks.isdecimal() else None

    def lives(self, pid: int) -> bool:
        """Tell whether ``pid``, a number of our own PID namespace, is this very process still."""
        try:
            return started_ticks(pid) == self.started_ticks
        except PermissionError:
            return True

    def __str__(self) -> str:
        return f"{self.place} {self.started_ticks}"


def started_ticks(pid: int) -> int | None:
    """Return when a live process started; None: none has that number, or it is a zombie.

    Raises PermissionError for a process of another user that /proc hides from us.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2].split()
    except OSError:
        with suppress(ProcessLookupError):
            os.kill(pid, 0)
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[_START_FIELD])
