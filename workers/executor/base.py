"""The seam of executors: run one program to its end, whatever that end is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

from domain.failure import FailureKind
from domain.task import Limits, Usage
from domain.value import value


@value(frozen=True, slots=True, kw_only=True)
class Launch:
    """One process to run: argv with the program first, its whole environment, its bounds.

    ``task_id`` names it to ``cancel`` and ``follow``. ``stall_timeout_seconds``: how long it may
    give no sign of life (output, a line of progress); None: for ever.

    ``is_request``: it is one request to a persistent process; then ``argv`` is the arguments alone,
    ``env`` what is added to that of the process, and ``cwd`` and ``limits`` say nothing.
    """

    task_id: str
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
    stall_timeout_seconds: float | None = None


@value(frozen=True, slots=True, kw_only=True)
class Exit:
    """End of one process.

    ``failure`` is None for exit code 0. ``stdout_size`` and ``stderr_size`` count all that was
    written; ``truncated`` says that stderr lost its middle. ``spawn_errno`` is set when the program
    could not be started. Times: ``started_at`` on the monotonic clock of the host.

    ``progress`` (0 to 1), ``note``: what the program told last of how far it is; None, empty: it
    did not. ``progress_invalid`` counts what it told wrongly. ``usage`` is None where it is
    unknown; ``is_output_lost``: what it wrote is, for its spawner died.
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
    usage: Usage | None
    progress: float | None = None
    note: str = ""
    progress_invalid: int = 0
    is_output_lost: bool = False
    spawn_errno: int | None = None


@value(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A piece of what a running program writes.

    ``offset`` is that of its first byte in the stream; ``skipped`` counts the bytes left out just
    before it. ``data`` may be empty: then nothing else was written up to ``offset``.
    """

    stream: Literal["stdout", "stderr"]
    offset: int
    data: bytes
    skipped: int


@value(frozen=True, slots=True, kw_only=True)
class Signs:
    """Signs of life of a running program and all that is in its process group; None: unknown."""

    elapsed_seconds: float
    cpu_seconds: float | None
    rss_bytes: int | None
    processes: int | None


OnChunk = Callable[[Chunk | Signs | None], None]
"""Called on the loop thread with what is followed, at last with None: the launch is over. It must
neither raise nor wait."""


class Watcher(Protocol):
    """Hears of one launch while it runs; called on the loop thread, must not raise."""

    def started(self, slot: int | None, taken_at: float, pid: int | None) -> None:
        """The launch got a slot; told once, before its end.

        ``slot`` is its number and ``pid`` the process on the host; None: unknown, or it could not
        be started. ``taken_at``: on the monotonic clock of the host.
        """

    def progressed(self, progress: float | None, note: str) -> None:
        """The program told how far it is: 0 to 1, or None, and a note, or none. At most four times
        a second."""

    def cut_short(self, ended: Exit) -> None:
        """The process of a cancelled ``run`` is dead, and this is its end."""


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

    @property
    def cgroups(self) -> str:
        """Whether tasks have cgroups: ``tasks:`` and the controllers in force, or ``none:`` and the
        reason."""

    async def start(self) -> None:
        """Be ready to run. Raises ExecutorUnavailable."""

    async def run(self, launch: Launch, watcher: Watcher) -> Exit | None:
        """Run to the end and return it; None: given back, nothing was started. Never raises for
        what the program did.

        The watcher hears of the start when it is known: for a program of less than 20 ms with its
        end. Cancelled: kills the process group, waits until it is dead, then re-raises.
        """

    def cancel(self, task_id: str) -> bool:
        """Have the process of that task asked to end (SIGTERM to its group), and killed after its
        grace; ``run`` returns its end. One that waits for a slot is given back. False: none is in
        hand."""

    def follow(self, task_id: str, on_chunk: OnChunk) -> bool:
        """Have what the process of that task writes told as it comes, until ``unfollow`` or its
        end. False: none is in hand.

        First comes one chunk a stream with the end of what was written so far, even if that is
        nothing; then what is written, at most 64 KiB a second, older bytes left out first; once a
        second its signs of life.
        """

    def unfollow(self, task_id: str, on_chunk: OnChunk) -> None:
        """Tell no more of it; of what is not followed nothing happens."""

    async def recall(self) -> None:
        """Have all launches that wait for a slot given back, and all starts made known."""

    async def close(self) -> None:
        """Kill what still runs and end the helper processes, at once."""


class ExecutorUnavailable(Exception):
    """No process can be started any more; the worker must end."""
