"""One measured worker process, and the commands that prepare its database."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from integration.bench.config import (
    CLUSTER,
    PROGRAM,
    SLOTS,
    WORKER,
    Topics,
    worker_environment,
)
from integration.bench.traffic import BenchFailed
from integration.services.base import dying, last_lines

CHECKOUT = Path(__file__).resolve().parents[2]
COMMAND_SECONDS = 120
STOP_SECONDS = 60
MAKE_DAYS = (
    "from datetime import UTC, datetime; from recorder.partitions import create_ahead;"
    " create_ahead(datetime.now(UTC))"
)


def prepare_database(config: Path, checkout: Path = CHECKOUT) -> None:
    """Migrate, and make the day partitions, by the commands of a checkout. Raises BenchFailed."""
    for command in (["migrate", "--verbosity", "0"], ["shell", "-c", MAKE_DAYS]):
        done = subprocess.run(
            [sys.executable, "manage.py", *command],
            cwd=checkout,
            env=worker_environment(dict(os.environ), config),
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
        if done.returncode != 0:
            raise BenchFailed(f"manage.py {command[0]}: {done.stdout}{done.stderr}")


def running_worker(
    config: Path, log: Path, *, has_recorder: bool, checkout: Path = CHECKOUT
) -> AbstractContextManager[int]:
    """The pid of a worker of a checkout for the length of the block. Raises BenchFailed."""
    argv = [sys.executable, "manage.py", "runworker", "--cluster", CLUSTER, "--name", WORKER]
    if not has_recorder:
        argv.append("--no-recorder")
    return _running(argv, worker_environment(dict(os.environ), config), log, checkout)


def running_by_hand(brokers: str, topics: Topics, log: Path) -> AbstractContextManager[int]:
    """The pid of the worker written by hand for the length of the block. Raises BenchFailed."""
    where = [brokers, topics.source, topics.results, topics.group]
    argv = [sys.executable, "-m", "integration.bench.by_hand", *where, str(SLOTS), PROGRAM]
    return _running(argv, dict(os.environ), log, CHECKOUT)


@contextmanager
def _running(
    argv: list[str], environment: dict[str, str], log: Path, checkout: Path
) -> Iterator[int]:
    """Ended by SIGTERM; killed when the block fails."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            dying(argv),
            cwd=checkout,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process.pid
    except BaseException:
        process.kill()
        process.wait()
        raise
    _end(process, log)


def _end(process: subprocess.Popen[bytes], log: Path) -> None:
    process.terminate()
    try:
        code = process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise BenchFailed(f"worker: still alive {STOP_SECONDS} s after SIGTERM") from None
    if code != 0:
        raise BenchFailed(f"worker: exit code {code}; the end of {log}:\n{last_lines(log)}")
