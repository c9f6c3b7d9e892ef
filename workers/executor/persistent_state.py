"""State of persistent processes: the program, the requests, the processes and their seats.

Standard library only: runs inside the spawner process. All of it is owned by PersistentProcesses.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from domain.process_end import ProcessEnd
from workers.executor.capture import EndsCapture, HeadCapture
from workers.executor.launching import Child, Used

LOG_BYTES = 4096
"""Kept of what a process writes while it has no request."""
LINE_MARGIN_BYTES = 65_536
ESCAPE_FACTOR = 3
"""A text as JSON takes up to three times its bytes (a Cyrillic letter as six characters)."""

_CPU_CLOCK = 2  # CPUCLOCK_SCHED, see clock_getcpuclockid(3).
_MEMORY_SECONDS = 1.0


class Program(NamedTuple):
    """The program, as the worker sends it; ``max_requests`` 0: as many as come."""

    argv: Sequence[str]
    env: dict[str, str]
    cwd: str | None
    limits: Sequence[int | None] | None
    bounds: tuple[int | None, int | None, float | None] | None
    grace_seconds: float
    max_requests: int
    ready_seconds: float | None


class PassedOn(HeadCapture):
    """Keeps nothing of an output, and passes it on."""

    __slots__ = ("_take",)

    def __init__(self, take: Callable[[bytes], None]) -> None:
        super().__init__(0)
        self._take = take

    def add(self, data: bytes) -> None:
        """Take in what was written."""
        self._take(data)


class Request(Child):
    """A request: it has a slot, and either waits for a process or is answered by one.
    ``error_bytes_before``: stderr of processes that ended without having read it."""

    __slots__ = (
        "answer_bytes",
        "cpu_seconds",
        "detail",
        "error_bytes_before",
        "line",
        "process",
        "timeout_seconds",
    )

    def __init__(self, serial: int, slot: int, asked: tuple[Any, ...]) -> None:
        _, number, self.line, self.timeout_seconds, grace, max_out, max_err, stall = asked
        super().__init__(number, serial, slot)
        self.expect(b"", max_out, max_err, grace, stall)
        self.error_bytes_before = 0
        self.answer_bytes = ESCAPE_FACTOR * (max_out + max_err) + LINE_MARGIN_BYTES
        self.process: Process | None = None
        self.cpu_seconds: float | None = None
        self.detail = ""


class Process(Child):
    """A persistent process. ``end_cause`` names why it is to go; then it gets no more requests.
    ``proc_pid`` is its number in our /proc; None: unknown."""

    __slots__ = (
        "end_cause",
        "end_detail",
        "has_said_ready",
        "log",
        "max_rss_bytes",
        "memory_read_at",
        "odd_lines",
        "partial",
        "proc_pid",
        "quota",
        "request",
        "said_bytes",
        "said_bytes_cap",
        "seat",
        "served",
        "unsent",
        "user_share",
    )

    keeps_input = True

    def __init__(self, serial: int, seat: Seat, quota: int) -> None:
        super().__init__(0, serial, seat.slot)
        self.seat = seat
        self.quota = quota
        self.log = self.errors = EndsCapture(LOG_BYTES)
        self.partial = bytearray()
        self.unsent = memoryview(b"")
        self.request: Request | None = None
        self.has_said_ready = False
        self.served = self.said_bytes = self.odd_lines = 0
        self.said_bytes_cap = LINE_MARGIN_BYTES
        self.end_cause: ProcessEnd | None = None
        self.end_detail = ""
        self.proc_pid: int | None = None
        self.max_rss_bytes, self.user_share, self.memory_read_at = 0, 1.0, 0.0


class Seat:
    """The place of one slot: its process, the one started ahead to follow it, and how many in a
    row ended without having done any work."""

    __slots__ = ("failures", "following", "last_words", "process", "slot")

    def __init__(self, slot: int) -> None:
        self.slot = slot
        self.process: Process | None = None
        self.following: Process | None = None
        self.failures = 0
        self.last_words = ""


def cpu_seconds(process: Process) -> float | None:
    """CPU time that all its threads have used; None: unknown."""
    try:
        return time.clock_gettime(~process.pid << 3 | _CPU_CLOCK)
    except OSError:
        return None


def used_for(process: Process, request: Request) -> Used:
    """What it used for a request: its CPU time is known, how much of it as user as it was in the
    life of the process, and of memory the most that the process ever held."""
    now, spent = time.monotonic(), 0.0
    ended_at = cpu_seconds(process)
    if ended_at is not None and request.cpu_seconds is not None:
        spent = ended_at - request.cpu_seconds
    if now - process.memory_read_at >= _MEMORY_SECONDS:
        _read_memory(process)
        process.memory_read_at = now
    user = spent * process.user_share
    return user, spent - user, process.max_rss_bytes, None


def _read_memory(process: Process) -> None:
    try:
        with open(f"/proc/{process.proc_pid}/status", "rb") as file:
            peak = next((line for line in file if line.startswith(b"VmHWM:")), None)
        with open(f"/proc/{process.proc_pid}/stat", "rb") as file:
            ticks = file.read().rpartition(b")")[2].split()[11:13]
    except OSError:
        return
    if peak is not None:
        process.max_rss_bytes = int(peak.split()[1]) * 1024
    user, system = map(int, ticks)
    if user + system:
        process.user_share = user / (user + system)
