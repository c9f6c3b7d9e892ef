"""supervisord as the demo uses it: started, told what to run, asked, and ended."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from supervisor.xmlrpc import SupervisorTransport

from integration.demo.folder import CHECKOUT
from integration.demo.plan import Program, program_section, supervisor_section
from integration.services.base import PARENT, ServiceFailed, as_parent, dying, last_lines

POLL_SECONDS = 0.05
START_SECONDS = 15.0
ENDED = ("STOPPED", "EXITED", "FATAL", "UNKNOWN")


def until(holds: Callable[[], bool], seconds: float, *, poll_seconds: float = POLL_SECONDS) -> bool:
    """Poll until ``holds()`` or the seconds have passed; whether it held."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(poll_seconds)
    return True


def connect(socket: Path) -> Any:
    """supervisord's XML-RPC interface at this Unix socket; calls raise OSError when it is gone."""
    transport = SupervisorTransport(None, None, f"unix://{socket}")
    return xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport).supervisor


class Supervisor:
    """One supervisord in a session of its own, so that Ctrl-C reaches only the launcher.

    Start it from the main thread: it dies with the thread that started it.
    """

    def __init__(
        self,
        run: Path,
        socket: Path,
        environment: Mapping[str, str],
        directory: Path = CHECKOUT,
    ) -> None:
        """Programs run in ``directory``."""
        self._run = run
        self._directory = directory
        self._socket = socket
        self._environment = dict(environment)
        self._programs: dict[str, Program] = {}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def rpc(self) -> Any:
        """A fresh connection, so that threads never share one."""
        return connect(self._socket)

    def start(self, programs: Iterable[Program]) -> None:
        """Start supervisord, nothing else. Raises ServiceFailed."""
        self._write(programs)
        argv = [sys.executable, "-W", "ignore", "-m", "supervisor.supervisord"]
        self._process = subprocess.Popen(
            dying(as_parent([*argv, "-c", str(self._run / "supervisord.conf")])),
            env={**self._environment, PARENT: str(os.getpid())},
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        if not until(lambda: self._answers() or not self.is_alive, START_SECONDS):
            raise ServiceFailed("supervisord: no answer on its socket")
        if not self.is_alive:
            log = self._run / "logs" / "supervisord.log"
            raise ServiceFailed(f"supervisord ended; the end of {log}:\n{last_lines(log)}")

    @property
    def is_alive(self) -> bool:
        """Whether supervisord was started and lives."""
        return self._process is not None and self._process.poll() is None

    def versions(self) -> dict[str, str]:
        """The version of each program known."""
        return {name: program.version for name, program in self._programs.items()}

    def add(self, programs: Iterable[Program]) -> None:
        """Make more programs known, without starting them."""
        self._write(programs)
        ((added, _changed, _removed),) = self.rpc.reloadConfig()
        for name in added:
            self.rpc.addProcessGroup(name)

    def launch(self, name: str) -> None:
        """Start a program without waiting for it. Raises ServiceFailed."""
        try:
            self.rpc.startProcess(name, False)
        except xmlrpc.client.Fault as exc:
            raise ServiceFailed(f"{name}: {exc.faultString}") from exc

    def info(self, name: str) -> dict[str, Any]:
        """supervisord's view of a program: ``statename``, ``pid``, ``exitstatus``."""
        found: dict[str, Any] = self.rpc.getProcessInfo(name)
        return found

    def ended(self, name: str) -> str | None:
        """Return how a program ended, None while it runs or is being started."""
        info = self.info(name)
        if info["statename"] in (*ENDED, "BACKOFF"):
            return f"{info['statename'].lower()}, exit code {info['exitstatus']}"
        return None

    def stop(self, names: Iterable[str]) -> None:
        """SIGTERM to all of these at once, then wait until each has ended."""
        rpc = self.rpc
        asked = []
        for name in names:
            if self.info(name)["statename"] not in ENDED:
                rpc.stopProcess(name, False)
                asked.append(name)
        patience = max((self._programs[name].stop_seconds for name in asked), default=0) + 10
        until(lambda: all(self.info(name)["statename"] in ENDED for name in asked), patience)

    def close(self) -> None:
        """End everything: workers and producer, then the web side, then the services."""
        if not self.is_alive or self._process is None:
            return
        ours = [name for name, program in self._programs.items() if not program.is_service]
        middle = [name for name in ("web", "controller") if name in self._programs]
        for group in (ours, middle, [n for n in self._programs if n not in (*ours, *middle)]):
            self.stop(group)
        self.rpc.shutdown()
        try:
            self._process.wait(START_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """SIGKILL; its programs die with it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _answers(self) -> bool:
        try:
            return bool(self.rpc.getState()["statename"] == "RUNNING")
        except OSError:
            return False

    def _write(self, programs: Iterable[Program]) -> None:
        self._programs |= {program.name: program for program in programs}
        sections = [program_section(program) for program in self._programs.values()]
        text = supervisor_section(self._run, self._socket, self._directory) + "".join(sections)
        (self._run / "supervisord.conf").write_text(text)
