"""The seam of executors: run one program to its end, whatever that end is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from domain.failure import FailureKind
from domain.task import Limits, Usage
from domain.value import value


@value(frozen=True, slots=True, kw_only=True)
class Launch:
    """One process to run: argv with the program first, its whole environment, its bounds.

    ``is_request``: it is one request to a persistent process; then ``argv`` is the arguments alone,
    ``env`` what is added to that of the process, and ``cwd`` and ``limits`` say nothing.
    """

    argv: tuple[str, ...]
    env: dict[str, str]
    stdin: bytes
    cwd: str | None
    timeout_seconds: float
    kill_grace_seconds: float
    max_stdout_bytes: int
    max_stderr_bytes: int
    limits: Limits | None
    is_request: bool = False


@value(frozen=True, slots=True, kw_only=True)
class Exit:
    """End of one process.

    ``failure`` is None for exit code 0. ``stdout_size`` and ``stderr_size`` count all that was
    written; ``truncated`` says that stderr lost its middle. ``spawn_errno`` is set when the program
    could not be started. Times: ``started_at`` on the monotonic clock of the host.
    """

    failure: FailureKind | None
    detail: str
    exit_code: int | None
    pid: int | None
    stdout: bytes
    stderr: bytes
    stdout_size: int
    stderr_size: int
    truncated: bool
    started_at: float
    duration_seconds: float
    usage: Usage
    spawn_errno: int | None = None


OnStart = Callable[[int | None, float], None]
"""Called once for a launch that got a slot, with the slot's number (None: its spawner died before
it said which) and the time at which it was taken, on the monotonic clock of the host."""


class Executor(Protocol):
    """Runs processes, never more at once than it has slots; used on the loop thread only.

    A launch beyond the slots waits for one, for 20 ms at most: then it is given back.
    """

    @property
    def isolation(self) -> str:
        """The tier in force: ``pid_namespace`` or ``groups``."""

    @property
    def launcher(self) -> str:
        """How processes are started: ``native`` or ``python``."""

    async def start(self) -> None:
        """Be ready to run. Raises ExecutorUnavailable."""

    async def run(self, launch: Launch, on_start: OnStart) -> Exit | None:
        """Run to the end and return it; None: given back, nothing was started. Never raises for
        what the program did.

        ``on_start`` is called when the start is known: for a program of less than 20 ms with its
        end. Cancelled: kills the process group, waits until it is dead, then re-raises.
        """

    async def recall(self) -> None:
        """Have all launches that wait for a slot given back, and all starts made known."""

    async def close(self) -> None:
        """Kill what still runs and end the helper processes, at once."""


class ExecutorUnavailable(Exception):
    """No process can be started any more; the worker must end."""
