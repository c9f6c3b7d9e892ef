"""The real launcher and the real verdict while one worker is frozen and another killed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from integration.demo.clusters import MAIN
from integration.services.base import dying
from tests.support.demo import CHECKOUT, GONE_SECONDS, are_gone, run_folder, started_for
from tests.support.services import require

MESSAGES = 600
END_SECONDS = 230.0
SESSION = {f"{MAIN.prefix}KAFKA__SESSION_TIMEOUT_MS": "9000"}
"""A neighbour that holds the CPU for seconds is no freeze."""


def chaos(run: Path, report: Path, log: Path) -> int:
    """Run it; its exit code."""
    argv = [sys.executable, "-m", "integration.chaos", "--short", "--kafka", "mock"]
    argv += ["--messages", str(MESSAGES), "--report", str(report)]
    with log.open("wb") as out:
        done = subprocess.run(
            dying(argv),
            cwd=CHECKOUT,
            env={**os.environ, **SESSION, "DRAKKAR_RUN_DIR": str(run)},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            timeout=END_SECONDS,
            check=False,
        )
    return done.returncode


@pytest.mark.slow
@pytest.mark.timeout(END_SECONDS + 2 * GONE_SECONDS)
def test_a_zombie_and_a_crash_lose_nothing(tmp_path: Path) -> None:
    require("postgres")
    require("mock")
    report, log = tmp_path / "report.json", tmp_path / "chaos.log"
    with run_folder(tmp_path) as run:
        code = chaos(run, report, log)
        said = log.read_text()
        assert code == 0, said
        assert are_gone(run), started_for(run)
        faults = [json.loads(line) for line in (run / "faults.jsonl").read_text().splitlines()]
    assert [(fault["worker"], fault["kind"]) for fault in faults] == [
        ("worker-2", "freeze"),
        ("worker-3", "kill"),
        ("worker-2", "thaw"),
        ("worker-3", "start"),
    ]
    verdict = json.loads(report.read_text())
    assert verdict["ok"] is True
    for name in ("main", "fast"):
        figures = verdict["clusters"][name]
        assert (figures["produced"], figures["fates"], figures["lost"]) == (MESSAGES, MESSAGES, 0)
    table = said.partition("How long partitions stood still")[2]
    for deed in ("worker-2 freeze", "worker-3 kill"):
        assert re.search(rf"^  {deed} +[1-9]\d* partitions moved after ", table, re.MULTILINE), said
