"""A broker that was taken away is back when it answers, and so the verdict is told."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import psutil
import pytest
from confluent_kafka import KafkaError, KafkaException

from integration.chaos.plan import Deed
from integration.demo.clusters import KAFKA
from integration.demo.kafka import Offsets, Sampler, await_return, kafka_kind
from integration.demo.running import FaultInjector
from integration.demo.supervisor import Supervisor, until
from integration.services import kafka_apache
from integration.services.base import Launch, ServiceFailed

BROKER = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=0)
print(child.pid, flush=True)
sys.stdin.read()
"""


class Told(Supervisor):
    """A supervisor that notes what it is told."""

    def __init__(self, pid: int = 0) -> None:
        self.pid = pid
        self.said: list[str] = []

    def launch(self, name: str) -> None:
        self.said.append(f"launch {name}")

    def stop(self, names: Iterable[str]) -> None:
        self.said += [f"stop {name}" for name in names]

    def info(self, name: str) -> dict[str, Any]:
        return {"pid": self.pid}


def noted(path: Path) -> list[str]:
    return [json.loads(line)["kind"] for line in path.read_text().splitlines()]


def is_frozen(process: psutil.Process) -> bool:
    return bool(process.status() == psutil.STATUS_STOPPED)


def test_a_stop_is_noted_before_it_and_a_start_once_it_answers(tmp_path: Path) -> None:
    path, supervisor = tmp_path / "faults.jsonl", Told()
    seen: list[tuple[list[str], list[str]]] = []

    def answers() -> float:
        seen.append((list(supervisor.said), noted(path)))
        return 3.2

    injector = FaultInjector(supervisor, path, 1.0, answers)
    assert injector.act(Deed.STOP, KAFKA) == ""
    assert injector.act(Deed.START, KAFKA) == "(answers after 3.2 s)"
    assert seen == [(["stop kafka", "launch kafka"], ["stop"])]
    assert noted(path) == ["stop", "start"]


def test_a_start_that_is_not_answered_is_never_taken_for_done(tmp_path: Path) -> None:
    def silent() -> float:
        raise ServiceFailed("not ready")

    path = tmp_path / "faults.jsonl"
    injector = FaultInjector(Told(), path, 1.0, silent)
    injector.act(Deed.STOP, KAFKA)
    with pytest.raises(ServiceFailed):
        injector.act(Deed.START, KAFKA)
    assert noted(path) == ["stop"]


def test_all_processes_of_the_broker_are_frozen_and_thawed(tmp_path: Path) -> None:
    path, pipe = tmp_path / "faults.jsonl", subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", BROKER], stdin=pipe, stdout=pipe) as broker:
        assert broker.stdout is not None
        both = [psutil.Process(pid) for pid in (broker.pid, int(broker.stdout.readline()))]
        injector = FaultInjector(Told(broker.pid), path, 1.0, lambda: 0.0)
        try:
            injector.act(Deed.FREEZE, KAFKA)
            assert until(lambda: all(map(is_frozen, both)), 10.0)
            injector.act(Deed.THAW, KAFKA)
            assert until(lambda: not any(map(is_frozen, both)), 10.0)
        finally:
            for process in both:
                process.kill()
    assert noted(path) == ["freeze", "thaw"]


def test_it_is_back_when_it_is_ready_and_each_group_was_sampled_anew(tmp_path: Path) -> None:
    samplers = [Sampler(object.__new__(Offsets), tmp_path / name) for name in ("main", "fast")]
    asked = 0

    def is_ready() -> bool:
        nonlocal asked
        asked += 1
        if asked in (3, 4):
            samplers[asked - 3].sampled_at = float("inf")
        return asked > 1

    launch = Launch(name="kafka", argv=(), log_path=tmp_path / "none", is_ready=is_ready)
    await_return(launch, samplers, lambda: None)
    assert asked == 4
    samplers[0].sampled_at = 0.0
    with pytest.raises(ServiceFailed, match="fatal"):
        await_return(launch, samplers[:1], lambda: "fatal")


def test_offsets_that_are_not_told_are_not_taken_for_none() -> None:
    """A coordinator that is loading must not look like a group without a commit."""
    error = KafkaError(KafkaError.COORDINATOR_LOAD_IN_PROGRESS)
    answers = [
        SimpleNamespace(topic="topic", partition=0, offset=7, error=None),
        SimpleNamespace(topic="topic", partition=1, offset=-1001, error=error),
    ]
    offsets = Offsets("127.0.0.1:1", "topic", "group", 2)

    def ask(parts: object, timeout: float) -> list[SimpleNamespace]:
        return answers

    offsets._consumer = cast("Any", SimpleNamespace(committed=ask, offsets_for_times=ask))
    for told in (offsets.committed, offsets.ends):
        answers[1].error = error
        with pytest.raises(KafkaException):
            told()
        answers[1].error = None
        assert told() == {0: 7}


@pytest.mark.parametrize(("lacks", "kind"), [(None, "apache"), ("no Java", "mock")])
def test_the_kind_of_broker_is_known_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    lacks: str | None,
    kind: str,
) -> None:
    monkeypatch.setattr(kafka_apache, "missing", lambda: lacks)
    assert kafka_kind("auto") == kind
    assert ("no Java; using librdkafka's mock" in capsys.readouterr().out) is (kind == "mock")
    assert [kafka_kind(asked) for asked in ("apache", "mock")] == ["apache", "mock"]
