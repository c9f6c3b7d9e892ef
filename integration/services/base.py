"""Base of every embedded service: how it is started, awaited, read when it fails, and ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

POLL_SECONDS = 0.02
LOG_LINES = 30
PARENT = "DYING_PARENT"
"""Names the process that must be the parent of what ``dying`` starts."""
DYING = Path(__file__).resolve().parents[1] / "bin" / "dying.py"
_AS_PARENT = f'{PARENT}=$$; export {PARENT}; exec "$@"'


class ServiceUnavailable(RuntimeError):
    """This machine lacks what the service needs; the text says what to install."""


class ServiceFailed(RuntimeError):
    """The service ended, or was not ready in time; the text ends with its own last log lines."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """One way to start a service: enough for a supervisor's program line.

    ``argv`` carries the death signal already. ``is_ready`` is polled until true; it never raises.
    """

    name: str
    argv: tuple[str, ...]
    log_path: Path
    is_ready: Callable[[], bool]
    env: Mapping[str, str] = field(default_factory=dict)
    stop_signal: signal.Signals = signal.SIGTERM
    ready_seconds: float = 60.0
    stop_seconds: float = 20.0
    version: str = ""
    keeps_data: bool = True
    """False: a restart would be another, empty server, so a supervisor must not try one."""


def dying(argv: Sequence[str], signal_name: str = "KILL") -> tuple[str, ...]:
    """``argv`` that gets ``signal_name`` when the thread that started it ends (Linux only).

    Where the environment names the starter in ``DYING_PARENT``, one that died even earlier counts
    too: nothing is started then.
    """
    return (sys.executable, "-IS", str(DYING), signal_name, *argv)


def as_parent(argv: Sequence[str]) -> tuple[str, ...]:
    """``argv`` that names itself as the parent of what it starts by ``dying``."""
    return ("sh", "-c", _AS_PARENT, "parent", *argv)


def last_lines(path: Path, count: int = LOG_LINES) -> str:
    """The end of a log, for an error message; says so when there is none."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError as exc:
        return f"(no log: {exc})"
    return "\n".join(lines[-count:]) or "(its log is empty)"


def await_ready(launch: Launch, has_ended: Callable[[], str | None]) -> float:
    """Wait until ``launch`` is ready; returns the seconds it took.

    ``has_ended`` tells how the process ended, None while it lives. Raises ServiceFailed with the
    service's own last log lines when it ended or ``ready_seconds`` have passed.
    """
    started = time.monotonic()
    while not launch.is_ready():
        ended = has_ended()
        waited = time.monotonic() - started
        if ended is not None or waited > launch.ready_seconds:
            reason = ended or f"not ready after {launch.ready_seconds:.0f} s"
            raise ServiceFailed(
                f"{launch.name}: {reason}; the end of {launch.log_path}:\n"
                f"{last_lines(launch.log_path)}"
            )
        time.sleep(POLL_SECONDS)
    return time.monotonic() - started


class Running:
    """A service started by this process. Start it from a thread that outlives the service."""

    def __init__(self, launch: Launch) -> None:
        self.launch = launch
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The live or ended process; RuntimeError before the first start."""
        if self._process is None:
            raise RuntimeError(f"{self.launch.name} was never started")
        return self._process

    @property
    def pid(self) -> int:
        """The service's process id."""
        return self.process.pid

    def start(self) -> float:
        """Start and wait until ready; returns seconds. Raises ServiceFailed."""
        self.launch.log_path.parent.mkdir(parents=True, exist_ok=True)
        with self.launch.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self.launch.argv,
                env={**os.environ, **self.launch.env, PARENT: str(os.getpid())},
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            return await_ready(self.launch, self._ended)
        except ServiceFailed:
            self.kill()
            raise

    def stop(self) -> None:
        """Ask the service to end, wait ``stop_seconds``, then kill it. Safe to call twice."""
        self.signal(signal.SIGCONT)
        self.signal(self.launch.stop_signal)
        try:
            self.process.wait(self.launch.stop_seconds)
        except subprocess.TimeoutExpired:
            self.kill()
        self._close_stdin()

    def kill(self) -> None:
        """SIGKILL, as a crash would; ``start`` brings it back on the same data."""
        self.signal(signal.SIGKILL)
        self.process.wait()
        self._close_stdin()

    def freeze(self) -> None:
        """SIGSTOP: the service hangs until ``thaw``."""
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT after ``freeze``."""
        self.signal(signal.SIGCONT)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal if the service still lives."""
        if self.process.poll() is None:
            self.process.send_signal(number)

    def _ended(self) -> str | None:
        code = self.process.poll()
        return None if code is None else f"ended with exit code {code}"

    def _close_stdin(self) -> None:
        if self.process.stdin is not None:
            self.process.stdin.close()


RunningT = TypeVar("RunningT", bound=Running)


@contextmanager
def started(service: RunningT) -> Iterator[RunningT]:
    """Start a service, and stop it at the end of the block."""
    service.start()
    try:
        yield service
    finally:
        service.stop()
