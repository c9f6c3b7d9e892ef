"""A MongoDB-compatible server: ``nx-27017``, which keeps its databases as SQLite files."""

from __future__ import annotations

import shutil
import sys
from contextlib import AbstractContextManager
from importlib import metadata
from pathlib import Path
from typing import Any

from pymongo import MongoClient
from pymongo.errors import PyMongoError

from integration.services.base import Launch, Running, ServiceUnavailable, dying, started
from integration.services.ports import LOOPBACK, free_port

NAME = "nx-27017"
ANSWER_MS = 2000


class RunningMongo(Running):
    """A live server."""

    def __init__(self, launch: Launch, port: int) -> None:
        super().__init__(launch)
        self.port = port

    @property
    def uri(self) -> str:
        """Its URI; loopback connections need no password."""
        return uri(self.port)


def uri(port: int) -> str:
    """URI of a server on this machine."""
    return f"mongodb://{LOOPBACK}:{port}/?directConnection=true"


def binary() -> Path:
    """The server's program, beside this Python or on the path. Raises ServiceUnavailable."""
    beside = Path(sys.executable).with_name(NAME)
    found = str(beside) if beside.exists() else shutil.which(NAME)
    if found is None:
        raise ServiceUnavailable(f"MongoDB: no {NAME} found; pip install nx-27017")
    return Path(found)


def prepare(folder: Path, port: int | None = None) -> Launch:
    """Return how to start the server on ``port`` (None: a free one), data under ``folder``.

    Raises ServiceUnavailable.
    """
    port = port or free_port()
    folder.mkdir(parents=True, exist_ok=True)
    folder = folder.resolve()
    (folder / "data").mkdir(exist_ok=True)
    # Run by this Python: the first line of an installed script may be too long for the kernel.
    argv = [sys.executable, str(binary()), "--data-dir", str(folder / "data")]
    argv += ["--host", LOOPBACK, "-p", str(port)]
    argv += ["--log-file", str(folder / "server.log"), "--pid-file", str(folder / "server.pid")]
    return Launch(
        name="mongo",
        argv=dying(argv),
        log_path=folder / "mongo.log",
        is_ready=lambda: answers(uri(port)),
        version=_version(),
        ready_seconds=30.0,
        stop_seconds=10.0,
    )


def _version() -> str:
    """For people; empty where the server is not this Python's own."""
    try:
        return f"{NAME} {metadata.version(NAME)}"
    except metadata.PackageNotFoundError:
        return ""


def answers(address: str) -> bool:
    """Whether a server answers a ping at this URI within 2 s."""
    with MongoClient[dict[str, Any]](address, timeoutMS=ANSWER_MS) as client:
        try:
            client.admin.command("ping")
        except PyMongoError:
            return False
    return True


def running(folder: Path, port: int | None = None) -> AbstractContextManager[RunningMongo]:
    """The server as a context manager. Raises ServiceUnavailable or ServiceFailed."""
    port = port or free_port()
    return started(RunningMongo(prepare(folder, port), port))
