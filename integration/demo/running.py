"""The running demo, as the chaos test may act on it and look at it."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from integration.chaos.plan import OPPOSITES, WORKERS, Deed
from integration.demo.clusters import KAFKA
from integration.demo.faults import strike
from integration.demo.supervisor import Supervisor


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningDemo:
    """The demo as the chaos test sees it."""

    web_url: str
    auth_token: str
    messages: int
    partitions: int
    speed: float
    worker_ports: Mapping[str, int]
    count_fates: Callable[[], int]
    is_drained: Callable[[], bool]
    """Whether both clusters were seen with everything committed, after the producer's end."""
    act: Callable[[Deed, str], str]
    """Does it to a process; returns what is to be said of it."""


class FaultInjector:
    """Does injector to supervised processes and notes them for the verdict."""

    def __init__(
        self,
        supervisor: Supervisor,
        faults_path: Path,
        stop_seconds: float,
        await_kafka: Callable[[], float],
    ) -> None:
        """``await_kafka`` returns once a broker that was away answers; the seconds it took."""
        self._supervisor = supervisor
        self._faults_path = faults_path
        self._stop_seconds = stop_seconds
        self._await_kafka = await_kafka

    def act(self, deed: Deed, target: str) -> str:
        """Do it now. Raises OSError, psutil.Error or ServiceFailed when it cannot be done."""
        if target == KAFKA and deed in OPPOSITES.values():
            return self._bring_back_kafka(deed)
        if deed is Deed.START:
            self._note(target, deed.value)
            self._supervisor.launch(target)
            return ""
        if deed in (Deed.FREEZE, Deed.THAW):
            self._note(target, deed.value)
            self._freeze(target, is_frozen=deed is Deed.FREEZE)
            return ""
        if target not in WORKERS:
            self._note(target, "stop")
            self._supervisor.stop([target])
            return ""
        kind = "kill" if deed is Deed.KILL else "stop"
        left = strike(self._pid(target), kind, target, self._faults_path, self._stop_seconds)
        return f"({left} orphans)"

    def _bring_back_kafka(self, deed: Deed) -> str:
        """Its absence ends when it answers: that is noted."""
        if deed is Deed.START:
            self._supervisor.launch(KAFKA)
        else:
            self._freeze(KAFKA, is_frozen=False)
        seconds = self._await_kafka()
        self._note(KAFKA, deed.value)
        return f"(answers after {seconds:.1f} s)"

    def _freeze(self, target: str, *, is_frozen: bool) -> None:
        root = psutil.Process(self._pid(target))
        if target in WORKERS:
            os.kill(root.pid, signal.SIGSTOP if is_frozen else signal.SIGCONT)
            return
        for process in [root, *root.children(recursive=True)]:
            (process.suspend if is_frozen else process.resume)()

    def _note(self, target: str, kind: str) -> None:
        entry: dict[str, Any] = {"at": time.time(), "kind": kind, "worker": target, "orphans": 0}
        with self._faults_path.open("a") as out:
            out.write(json.dumps(entry) + "\n")

    def _pid(self, target: str) -> int:
        return int(self._supervisor.info(target)["pid"])
