"""The dry run of one message: what would happen is shown, nothing is stored."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from domain.events import TaskCompleted
from domain.message import Message, Record
from domain.payload import FilePayload, Payload
from domain.task import TaskResult
from sinks.backends.file import FileSinkConfig
from sinks.backends.memory import STORES
from tests.support.pipeline import TOPIC, ShellHandler, cluster_config
from workers.management.commands.probe_message import as_text
from workers.runtime.probe import ProbeReport, ProbeTimedOut, probe
from workers.runtime.probing import document


def record(script: str) -> Record:
    return Message(
        topic=TOPIC,
        partition=3,
        offset=1234,
        key=b"k",
        value=json.dumps({"script": script}).encode(),
        headers=[],
        timestamp=1_700_000_000_000,
        payload=None,
    )


def probed(script: str, timeout_seconds: float = 20.0) -> ProbeReport:
    config = cluster_config(max_retries=1)
    handler = ShellHandler({}, max_retries=1)
    environ = {"PATH": "/usr/bin:/bin"}
    return asyncio.run(
        probe(
            config,
            "main",
            handler,
            record(script),
            environ=environ,
            timeout_seconds=timeout_seconds,
        )
    )


def test_the_payloads_are_shown_with_their_identity_and_stored_nowhere() -> None:
    STORES["store"].clear()
    report = probed("echo hi")
    assert report.fate == "delivered"
    assert [payload.sink for payload in report.payloads] == ["store"]
    (delivery,) = report.deliveries
    assert delivery.delivery_id == f"main/{TOPIC}/3/1234/1700000000000/0/collect/0"
    assert STORES["store"] == []


class Unencodable(ShellHandler):
    """Hands a file sink what no JSON holds."""

    async def collect(self, result: TaskResult) -> Sequence[Payload]:
        return [FilePayload(sink="store", path="p", record={"n": float("nan")})]


def test_what_the_configured_sink_could_not_encode_is_a_letter_in_the_probe(tmp_path: Path) -> None:
    base = tmp_path / "made by nobody"
    section = FileSinkConfig(kind="file", base_path=str(base))
    config = cluster_config().model_copy(update={"sinks": {"store": section}})
    report = asyncio.run(
        probe(
            config,
            "main",
            Unencodable({}),
            record("true"),
            environ={"PATH": "/usr/bin:/bin"},
            timeout_seconds=20.0,
        )
    )
    assert report.fate == "dead_lettered"
    assert b"record.n: expected a finite number" in (report.letters[0]["drakkar-reason"] or b"")
    assert not base.exists()


def test_a_failing_program_shows_every_attempt_and_the_dead_letter() -> None:
    report = probed("echo bad >&2; exit 3")
    found = document(report)
    assert report.fate == "dead_lettered"
    assert [(task["attempt"], task["exit_code"]) for task in found["tasks"]] == [(1, 3), (2, 3)]
    assert found["tasks"][0]["stderr"] == "bad\n"
    assert found["letters"][0]["drakkar-stage"] == "task"
    text = as_text(found)
    assert "fate: dead_lettered" in text
    assert "dead letter: task: " in text


def test_a_message_without_a_fate_in_time_is_said_and_its_program_ends() -> None:
    with pytest.raises(ProbeTimedOut, match=r"no fate within 0\.5 s"):
        probed("sleep 60", timeout_seconds=0.5)


def test_a_secret_behind_an_option_is_not_shown() -> None:
    report = probed("true")
    told = [
        replace(event, args=["--token", "unseen"]) if isinstance(event, TaskCompleted) else event
        for event in report.events
    ]
    (task,) = document(replace(report, events=told))["tasks"]
    assert task["args"] == ["--token", "***"]
