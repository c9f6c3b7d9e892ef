"""The worker's end of one spawner: its process, its socket, and its unfinished launches."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workers.executor.base import Exit, Launch, Watcher
from workers.executor.capture import READ_BYTES
from workers.executor.following import Followers
from workers.executor.frames import HELLO, FrameReader, FrameWriter
from workers.executor.isolation import GROUPS, kill_marked, kill_process

_PROGRAM = str(Path(__file__).with_name("spawner.py"))
_LOADER_VARIABLES = ("LD_LIBRARY_PATH",)
_RECEIVE_BYTES = READ_BYTES  # More would be a mapping made and unmade for each read.
END_SECONDS = 1.5
"""How long the second sign of a spawner's death (exit, EOF) may lag behind the first."""


@dataclass(slots=True)
class PendingLaunch:
    """One launch handed to a spawner under ``number``.

    ``is_ahead``: all of its slots were taken then, and nothing was heard of a start since;
    ``overdue_at`` (loop time): when the spawner counts as hung. ``taken_at`` and ``pid`` are what
    was told of the start, ``progress`` and ``note`` what the program told last.
    """

    future: asyncio.Future[Any]
    link: SpawnerLink
    number: int
    launch: Launch
    watcher: Watcher
    overdue_at: float
    is_ahead: bool
    is_start_told: bool = False
    taken_at: float | None = None
    pid: int | None = None
    progress: float | None = None
    note: str = ""
    followers: Followers | None = None
    outcome: Exit | None = None

    def tell_start(self, slot: int | None, taken_at: float, pid: int | None) -> None:
        """Tell it once."""
        if not self.is_start_told:
            self.is_start_told, self.is_ahead = True, False
            self.taken_at, self.pid = taken_at, pid
            self.watcher.started(slot, taken_at, pid)

    def resolve(self, outcome: Exit | None) -> None:
        """Give it its end, once; None: it is given back."""
        self.outcome = outcome
        if not self.future.done():
            self.future.set_result(outcome)
        if self.followers is not None:
            self.followers.tell(None)
            self.followers = None


class SpawnerLink:
    """Opened once; ``number`` is its own among all of the worker, dead ones too, and ``cgroup`` the
    folder for its tasks' cgroups, None: they get none. ``on_end(link, detail)`` is called when the
    spawner is dead and all is read."""

    def __init__(
        self,
        *,
        tier: str,
        nice: int,
        slots: Sequence[int],
        launcher: str,
        number: int,
        cgroup: Path | None,
        on_answer: Callable[[SpawnerLink, tuple[Any, ...]], None],
        on_end: Callable[[SpawnerLink, str], None],
    ) -> None:
        self._wanted_tier = tier
        self._nice = nice
        self.slots = slots
        self.launcher = launcher
        self.number = number
        self._cgroup = cgroup
        self._on_answer = on_answer
        self._on_end = on_end
        self._reader = FrameReader()
        self._writer = FrameWriter()
        self._is_flushing = self._is_stuck = False
        self._has_exited = self._has_eof = False
        self._first_mark: int | None = None
        self._host_pid: int | None = None
        self._backstop: asyncio.TimerHandle | None = None
        self.launches: dict[int, PendingLaunch] = {}
        self.recalls: dict[int, asyncio.Future[None]] = {}
        self.isolation: str = ""

    def open(self) -> None:
        """Start the spawner. Raises OSError."""
        self._loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[None] = self._loop.create_future()
        self._stream, theirs = socket.socketpair()
        self._stream.setblocking(False)
        arguments = [str(theirs.fileno()), str(os.getpid()), self._wanted_tier, str(self._nice)]
        arguments += [",".join(map(str, self.slots)), self.launcher, str(self.number)]
        arguments += [] if self._cgroup is None else [str(self._cgroup)]
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-X", "utf8", _PROGRAM, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=_environment(),
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        self._pidfd = os.pidfd_open(self._process.pid)
        self._loop.add_reader(self._stream, self._read)
        self._loop.add_reader(self._pidfd, self._exited)

    @property
    def pid(self) -> int:
        """The spawner process the worker started (its keeper)."""
        return self._process.pid

    def send(self, message: tuple[Any, ...]) -> None:
        """Queue a request; all of one turn of the loop go out together. Raises ValueError."""
        self._writer.put(message)
        if not self._is_flushing:
            self._is_flushing = True
            self._loop.call_soon(self._flush)

    def kill(self) -> None:
        """End the spawner and with it whatever it runs."""
        if self._host_pid is not None and not self._has_eof:
            kill_process(self._host_pid)
            # Its end may be unheard: a keeper that was stopped as it began holds the stream too.
            self._wait_for_end()
        elif not self._has_exited:
            self._process.kill()

    def _wait_for_end(self) -> None:
        if self._backstop is None:
            self._backstop = self._loop.call_later(END_SECONDS, self._kill_rest)

    def _kill_rest(self) -> None:
        if self._host_pid is not None and not self._has_eof:
            kill_process(self._host_pid)
        if not self._has_exited:
            self._process.kill()

    def _flush(self) -> None:
        self._is_flushing = False
        if self._has_eof:
            return
        try:
            is_done = self._writer.flush(self._stream)
        except OSError:
            return  # The reader will find the end.
        if not is_done:
            self._is_flushing = True
            self._loop.add_writer(self._stream, self._flush)
        elif self._is_stuck:
            self._loop.remove_writer(self._stream)
        self._is_stuck = not is_done

    def _read(self) -> None:
        try:
            chunk = self._stream.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            chunk = b""
        if not chunk:
            self._saw_eof()
            return
        for answer in self._reader.feed(chunk):
            if answer[0] == HELLO:
                self._greet(answer)
            else:
                self._on_answer(self, answer)

    def _greet(self, answer: tuple[Any, ...]) -> None:
        _, self.isolation, self._host_pid, self._first_mark, self.launcher = answer
        if not self.ready.done():
            self.ready.set_result(None)

    def _saw_eof(self) -> None:
        self._has_eof = True
        self._loop.remove_reader(self._stream)
        self._loop.remove_writer(self._stream)
        self._stream.close()
        self._finish_or_wait()

    def _exited(self) -> None:
        self._has_exited = True
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._process.wait()
        self._finish_or_wait()

    def _finish_or_wait(self) -> None:
        if not (self._has_eof and self._has_exited):
            self._wait_for_end()
            return
        if self._backstop is not None:
            self._backstop.cancel()
        if self.isolation == GROUPS and self._first_mark is not None:
            # The keeper did this, unless it was killed too.
            kill_marked(self._first_mark)
        if not self.ready.done():
            self.ready.set_result(None)
        self._on_end(self, _describe(self._process.returncode))


def _environment() -> dict[str, str]:
    """The little an interpreter may need to start: the worker's own environment holds secrets."""
    return {name: os.environ[name] for name in _LOADER_VARIABLES if name in os.environ}


def _describe(status: int) -> str:
    if status < 0:
        return f"killed by signal {-status}"
    if status > 128:
        return f"killed by signal {256 - status}"
    return f"exit status {status}"
