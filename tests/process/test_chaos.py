"""The real launcher and the real verdict while one worker is frozen and another killed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from integration.stack_supervisor import until
from tests.support.services import require

CHECKOUT = Path(__file__).resolve().parents[2]
MESSAGES = 600
END_SECONDS = 230.0
GONE_SECONDS = 10.0


def started_for(run: Path) -> list[psutil.Process]:
    """Every process whose command line or environment names this run's folder."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if any(str(run) in text for text in [*process.cmdline(), *process.environ().values()]):
                found.append(process)
    return found


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Path]:
    """A folder of its own, so that a demo may run beside it; its processes end with the test."""
    require("postgres")
    require("mock")
    folder = tmp_path / "run"
    yield folder
    for process in started_for(folder):
        with suppress(psutil.Error):
            process.kill()


@pytest.mark.timeout(END_SECONDS + 2 * GONE_SECONDS)
def test_a_zombie_and_a_crash_lose_nothing(run: Path, tmp_path: Path) -> None:
    report, log = tmp_path / "report.json", tmp_path / "chaos.log"
    argv = [sys.executable, "-m", "integration.chaos_test", "--short", "--kafka", "mock"]
    argv += ["--messages", str(MESSAGES), "--report", str(report)]
    with log.open("wb") as out:
        done = subprocess.run(
            argv,
            cwd=CHECKOUT,
            env={**os.environ, "DRAKKAR_RUN_DIR": str(run)},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            timeout=END_SECONDS,
            check=False,
        )
    said = log.read_text()
    assert done.returncode == 0, said
    assert until(lambda: not started_for(run), GONE_SECONDS), started_for(run)
    verdict = json.loads(report.read_text())
    assert verdict["ok"] is True
    for name in ("main", "fast"):
        figures = verdict["clusters"][name]
        assert (figures["produced"], figures["fates"], figures["lost"]) == (MESSAGES, MESSAGES, 0)
    faults = [json.loads(line) for line in (run / "faults.jsonl").read_text().splitlines()]
    assert [(fault["worker"], fault["kind"]) for fault in faults] == [
        ("worker-2", "freeze"),
        ("worker-3", "kill"),
        ("worker-2", "thaw"),
        ("worker-3", "start"),
    ]
    table = said.partition("How long partitions stood still")[2]
    for deed in ("worker-2 freeze", "worker-3 kill"):
        assert re.search(rf"^  {deed} +[1-9]\d* partitions moved after ", table, re.MULTILINE), said
