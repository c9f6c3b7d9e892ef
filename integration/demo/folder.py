"""The folder ``.run`` here (or ``DRAKKAR_RUN_DIR``): one lock, the data of one start, its state."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

CHECKOUT = Path(__file__).resolve().parents[2]
RUN = Path(os.environ.get("DRAKKAR_RUN_DIR") or ".run").resolve()
KEPT = ("bench", "cache", "lock")
MAX_SOCKET_BYTES = 90


class AlreadyRunning(RuntimeError):
    """Another launcher holds the lock."""


def lock() -> IO[str]:
    """Hold the lock until the returned file is closed or this process ends."""
    RUN.mkdir(parents=True, exist_ok=True)
    handle = (RUN / "lock").open("a+")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        handle.close()
        raise AlreadyRunning(f"the demo already runs (process {holder()}); make demo-stop") from exc
    handle.truncate(0)
    handle.write(str(os.getpid()))
    handle.flush()
    return handle


def holder() -> int | None:
    """The process id of the running launcher, None when there is none."""
    path = RUN / "lock"
    if not path.exists():
        return None
    with path.open() as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return int(handle.read() or 0) or None
    return None


def wipe() -> None:
    """Remove the data of the previous start; downloads stay."""
    for path in RUN.iterdir():
        if path.name in KEPT:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    (RUN / "logs").mkdir()


def socket_path() -> Path:
    """supervisord's socket; elsewhere when the checkout's own path is too long for one."""
    path = RUN / "supervisor.sock"
    if len(os.fsencode(path)) <= MAX_SOCKET_BYTES:
        return path
    return Path(tempfile.mkdtemp(prefix="drakkar-")) / "supervisor.sock"


def write_state(
    socket: Path, ports: Mapping[str, int | str], versions: dict[str, str], drain_seconds: int
) -> None:
    """Write what ``status`` and ``stop`` have to know.

    The port of a process with several is a text; ``drain_seconds``: the longest of a worker.
    """
    state = {
        "socket": str(socket),
        "ports": dict(ports),
        "versions": versions,
        "drain_seconds": drain_seconds,
    }
    (RUN / "stack.json").write_text(json.dumps(state))


def read_state() -> dict[str, Any]:
    """Read what ``write_state`` wrote."""
    state: dict[str, Any] = json.loads((RUN / "stack.json").read_text())
    return state
