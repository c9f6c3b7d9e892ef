"""How the demo tells that it is not up yet, and what its workers left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import psutil
import pytest
from confluent_kafka import KafkaError, KafkaException

from integration.demo import __main__ as stack
from integration.demo import folder
from integration.demo.clusters import MAIN
from integration.demo.faults import stop_all
from integration.demo.kafka import Offsets
from integration.verdict.facts import faults_of

PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=0)
print(child.pid, flush=True)
sys.stdin.read()
"""


def test_status_of_a_demo_that_is_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(socket: Path) -> None:
        raise ConnectionRefusedError(socket)

    monkeypatch.setattr(folder, "RUN", tmp_path)
    monkeypatch.setattr(stack, "connect", refuse)
    with closing(folder.lock()):
        assert stack.status() == 3
        folder.write_state(tmp_path / "none.sock", {}, {}, 0)
        assert stack.status() == 3
    assert capsys.readouterr().out == "the demo is starting\n" * 2


def test_stop_waits_as_long_as_the_slowest_worker_may_drain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []

    def note(holds: object, seconds: float) -> bool:
        waited.append(seconds)
        return False

    monkeypatch.setattr(folder, "RUN", tmp_path)
    monkeypatch.setattr(stack, "until", note)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as launcher:
        monkeypatch.setattr(stack, "holder", lambda: launcher.pid)
        assert stack.stop() == 1
        folder.write_state(tmp_path / "none.sock", {}, {}, 400)
        assert stack.stop() == 1
    assert waited == [stack.STOP_SECONDS, stack.STOP_SECONDS + 400]


class Away(Offsets):
    """Offsets that a broker tells, or not."""

    def __init__(self, answers: list[dict[int, int] | KafkaException]) -> None:
        self._answers = answers

    def ends(self) -> dict[int, int]:
        match self._answers.pop(0):
            case KafkaException() as failed:
                raise failed
            case found:
                return found

    committed = ends


@pytest.mark.parametrize(
    ("answers", "is_drained"),
    [
        ([KafkaException(KafkaError(KafkaError._TRANSPORT))], False),
        ([{0: 1}, KafkaException(KafkaError(KafkaError._TIMED_OUT))], False),
        ([{0: 1}, {0: 0}], False),
        ([{}, {}], False),
        ([{0: 1}, {0: 1}], True),
    ],
    ids=["away", "away half way", "behind", "empty", "drained"],
)
def test_nothing_is_drained_while_kafka_is_away(
    answers: list[dict[int, int] | KafkaException], is_drained: bool
) -> None:
    assert Away(answers).are_drained() is is_drained


@pytest.mark.parametrize("is_left", [True, False], ids=["orphan", "nothing"])
def test_what_outlives_a_worker_at_the_end_of_a_run_is_noted(tmp_path: Path, is_left: bool) -> None:
    path = tmp_path / "faults.jsonl"
    path.touch()
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", PARENT], stdin=pipe, stdout=pipe) as worker:
        assert worker.stdout is not None
        child = psutil.Process(int(worker.stdout.readline()))

        def stop(names: Iterable[str]) -> None:
            assert list(names) == ["worker-2"]
            if not is_left:
                child.kill()
            os.kill(worker.pid, signal.SIGKILL)
            worker.wait()

        stop_all({"worker-2": worker.pid}, stop, path)
        if is_left:
            child.kill()
    found = [(fault.worker, fault.kind, fault.orphans) for fault in faults_of(path, MAIN)]
    assert found == ([("worker-2", "stop", 1)] if is_left else [])
