"""What quick start and operations tell people to type, run as it stands there."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from integration.services.kafka_mock import RunningMock
from integration.verdict.facts import Topics
from recorder.config import RecorderConfig
from tests.support.doc_commands import CHECKOUT, Command, blocks, commands
from tests.support.worker_process import until

SITE = {"database_url": "postgresql://127.0.0.1:5432/drakkar", "secret_key": "s" * 50}
RUN_SECONDS = 120
CLUSTER_KEY = "DRAKKAR_CLUSTERS__WORDS__KAFKA__BROKERS"
QUICK = [command for command in commands() if command.place.startswith("docs/quickstart.md")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The quick start's cluster in a folder of its own, its handler copied as it says."""
    (block,) = (
        each for each in blocks() if (each.page, each.language) == ("docs/quickstart.md", "yaml")
    )
    config = {"site": SITE, **yaml.safe_load(block.text)}
    (tmp_path / "drakkar.yaml").write_text(yaml.safe_dump(config))
    source, target = typed("cp").arguments
    subprocess.run(["cp", str(CHECKOUT / source), str(tmp_path / target)], check=True)
    return tmp_path


def typed(program: str) -> Command:
    """The one such command of the quick start that has arguments, or is whole without."""
    found = {each.arguments: each for each in QUICK if each.program == program}
    return found[max(found, key=len)]


def run(folder: Path, command: Command, *more: str, **variables: str) -> str:
    """What it prints; it has to end well. README.md, which it reads, is the checkout's."""
    words = command.program.removeprefix("python ").split()
    done = subprocess.run(
        [sys.executable, *words, *command.arguments, *more],
        cwd=CHECKOUT,
        env=environment(folder, **variables),
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def environment(folder: Path, **variables: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DRAKKAR_")}
    config = {"DRAKKAR_CONFIG": str(folder / "drakkar.yaml"), "PYTHONPATH": str(folder)}
    return kept | config | variables


def test_the_quick_start_s_commands(folder: Path) -> None:
    assert "no issues" in run(folder, typed("manage.py check"))
    said = run(folder, typed("manage.py probe_message"))
    assert "fate: delivered" in said
    assert "README.md" in said


@contextmanager
def working(folder: Path, **variables: str) -> Iterator[Path]:
    """The quick start's worker, for as long as the block runs; its log."""
    log = folder / "worker.log"
    command = typed("manage.py runworker")
    spool = {"DRAKKAR_CLUSTERS__WORDS__RECORDER__SPOOL_DIR": str(folder / "spool")}
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, *command.program.split(), *command.arguments],
            cwd=CHECKOUT, env=environment(folder, **variables, **spool), stdout=out, stderr=out,
        )  # fmt: skip
    try:
        yield log
        process.send_signal(signal.SIGTERM)
        assert process.wait(RUN_SECONDS) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()


def add_thresholds(folder: Path) -> None:
    """What docs/tuning.md says to write below a cluster, to see every task."""
    (block,) = (
        each for each in blocks() if (each.page, each.language) == ("docs/tuning.md", "yaml")
    )
    path = folder / "drakkar.yaml"
    config = yaml.safe_load(path.read_text())
    config["clusters"]["words"] |= yaml.safe_load(block.text)
    path.write_text(yaml.safe_dump(config))


def test_topics_and_a_message(folder: Path, kafka_mock: RunningMock, process_database: str) -> None:
    for topic in ("count-requests", "count-requests_dlq", "word-counts"):
        kafka_mock.create_topic(topic, 50)  # the mock can make none when it is asked by Kafka's way
    told = {CLUSTER_KEY: kafka_mock.brokers, "DRAKKAR_SITE__DATABASE_URL": process_database}
    said = run(folder, typed("manage.py create_topics"), **told)
    assert "count-requests: there, 50 partitions" in said
    sent = typed("manage.py send")
    add_thresholds(folder)
    with working(folder, **told) as log:
        assert re.match(r"stored as count-requests:\d+:0\n", run(folder, sent, **told))
        counts = Topics(kafka_mock.brokers, "reader")
        until(lambda: any(counts.ends("word-counts").values()), "a result", RUN_SECONDS)
        (record,) = counts.read("word-counts")
    words = len((CHECKOUT / "README.md").read_text().split())
    assert json.loads(record.value() or b"") == {"file_path": "README.md", "words": words}
    (done,) = re.findall(r'^{.*"event": ?"task_completed".*$', log.read_text(), re.MULTILINE)
    assert json.loads(done)["duration_ms"] < RecorderConfig().log_min_duration_ms


def test_a_controller_leads(tmp_path: Path, process_database: str) -> None:
    log = tmp_path / "log"
    told = {"DRAKKAR_SITE__DATABASE_URL": process_database}
    told["DRAKKAR_SITE__CONTROLLER_METRICS_PORT"] = "0"
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, str(CHECKOUT / "manage.py"), "runcontroller"],
            cwd=tmp_path, env={**os.environ, **told}, stdout=out, stderr=out,
        )  # fmt: skip
    try:
        until(lambda: "controller: leading" in log.read_text(), "the lead", RUN_SECONDS)
        process.send_signal(signal.SIGTERM)
        assert process.wait(RUN_SECONDS) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()


def test_make_help_lists_every_target() -> None:
    said = subprocess.run(
        ["make", "help"], cwd=CHECKOUT, capture_output=True, text=True, timeout=60, check=True
    ).stdout
    (phony,) = re.findall(r"^\.PHONY: (.*)$", (CHECKOUT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"^  make ([a-z-]+) +\S", said, re.MULTILINE)) == set(phony.split())
