"""One fault on purpose: worker-2 is killed or stopped at a named moment, then looked at."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import psutil
import psycopg

from integration.told import COUNT_FATES

ORPHAN_SECONDS = 2.0
POLL_SECONDS = 0.05
FATES_SECONDS = 0.25
CONNECT_SECONDS = 30
OF_CLUSTER = " AND run IN (SELECT id FROM recorder_run WHERE cluster = %s)"


def count_fates(database_url: str, cluster: str) -> int:
    """Messages of this cluster whose fate stands in the history. Raises psycopg.Error."""
    with psycopg.connect(database_url, connect_timeout=CONNECT_SECONDS) as connection:
        row = connection.execute(COUNT_FATES + OF_CLUSTER, (cluster,)).fetchone()
    return int(row[0]) if row else 0


class Family:
    """All descendants a process was ever seen with; survives the process itself."""

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)
        self._seen: set[psutil.Process] = set()
        self.look()

    def look(self) -> None:
        """Note the descendants of now, also those of descendants that lost their parent."""
        for member in [self._root, *self._seen]:
            try:
                self._seen.update(member.children(recursive=True))
            except psutil.NoSuchProcess:
                continue

    def wait_for_root(self, seconds: float) -> bool:
        """Keep looking until the process itself has ended; whether it did in time."""
        deadline = time.monotonic() + seconds
        while is_alive(self._root) and time.monotonic() < deadline:
            self.look()
            time.sleep(POLL_SECONDS)
        return not is_alive(self._root)

    def orphans(self, seconds: float = ORPHAN_SECONDS) -> list[int]:
        """Process ids that still live after at most ``seconds``."""
        deadline = time.monotonic() + seconds
        alive = self._alive()
        while alive and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
            self.look()
            alive = self._alive()
        return alive

    def _alive(self) -> list[int]:
        return sorted(member.pid for member in self._seen if is_alive(member))


def is_alive(process: psutil.Process) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def strike(pid: int, kind: str, worker: str, path: Path, end_seconds: float) -> int:
    """Kill or stop a worker, await its end, append the fault to ``path``; orphans left."""
    family = Family(pid)
    at = time.time()
    os.kill(pid, signal.SIGKILL if kind == "kill" else signal.SIGTERM)
    family.wait_for_root(end_seconds)
    left = family.orphans()
    _note(path, at, kind, worker, left)
    return len(left)


def stop_all(pids: Mapping[str, int], stop: Callable[[Iterable[str]], None], path: Path) -> None:
    """Have these workers stopped at a run's end; append each that left orphans to ``path``."""
    families = {name: Family(pid) for name, pid in pids.items()}
    at = time.time()
    with ThreadPoolExecutor(1) as beside:
        stopping = beside.submit(stop, pids)
        while not stopping.done():
            for family in families.values():
                family.look()
            time.sleep(POLL_SECONDS)
    stopping.result()
    for name, family in families.items():
        if left := family.orphans():
            _note(path, at, "stop", name, left)


def _note(path: Path, at: float, kind: str, worker: str, left: Sequence[int]) -> None:
    with path.open("a") as out:
        entry = {"at": at, "kind": kind, "worker": worker, "orphans": len(left)}
        out.write(json.dumps(entry) + "\n")


class Scenario(Protocol):
    """Something that happens to the demo on a thread of its own."""

    problem: str
    """Why it could not happen, else empty."""

    def start(self) -> None:
        """Begin."""

    def is_alive(self) -> bool:
        """Whether it is not over yet."""

    def give_up(self) -> None:
        """Everything has its fate: what waits for more of them will wait in vain."""


def problem_of(act: Callable[[], None], what: str) -> str:
    """Do it to its end; what kept it from its end, else empty."""
    try:
        act()
    # Whatever it is: what ended half way must never be judged as if it were whole.
    except BaseException as exc:  # noqa: BLE001
        return f"{what}: {type(exc).__name__}: {exc}"
    return ""


class TooFewFates(Exception):
    """Everything has its fate, and the moment of the fault never came."""


class Fault(threading.Thread):
    """Waits for a count of fates, then strikes. ``problem`` tells why it could not, else empty."""

    def __init__(
        self,
        kind: str,
        fates: int,
        count: Callable[[], int],
        hit: Callable[[str], int],
    ) -> None:
        super().__init__(name="fault", daemon=True)
        self.problem = ""
        self._kind = kind
        self._fates = fates
        self._count = count
        self._hit = hit
        self._giving_up = threading.Event()

    def run(self) -> None:
        """Poll the count, strike once."""
        self.problem = problem_of(self._strike_once, f"the {self._kind} did not happen")

    def _strike_once(self) -> None:
        while self._count() < self._fates:
            if self._giving_up.wait(FATES_SECONDS):
                raise TooFewFates(f"there never were {self._fates} fates")
        left = self._hit(self._kind)
        print(f"  {self._kind} at {self._fates} fates: {left} orphans", flush=True)

    def give_up(self) -> None:
        """No further fate will come; what is recorded already still counts."""
        self._giving_up.set()


class BrokenProgram(threading.Thread):
    """Breaks the program of ``main`` for a while, once some messages have their fate: it fails at
    its start as long as ``path`` is there. ``problem`` tells why it could not, else empty."""

    def __init__(self, path: Path, seconds: float, fates: int, count: Callable[[], int]) -> None:
        super().__init__(name="broken program", daemon=True)
        self.problem = ""
        self._path = path
        self._seconds = seconds
        self._fates = fates
        self._count = count
        self._giving_up = threading.Event()

    def run(self) -> None:
        """Poll the count, break it, mend it."""
        self.problem = problem_of(self._break, "the program was not broken")

    def _break(self) -> None:
        while self._count() < self._fates:
            if self._giving_up.wait(FATES_SECONDS):
                raise TooFewFates(f"there never were {self._fates} fates")
        self._path.touch()
        print(f"  the program is broken for {self._seconds:g} s", flush=True)
        self._giving_up.wait(self._seconds)
        self._path.unlink()
        print("  the program is mended", flush=True)

    def give_up(self) -> None:
        """No further fate will come."""
        self._giving_up.set()
