"""What make says while it installs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def install(requirements: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "integration/bin/install.py", str(requirements)],
        cwd=ROOT,
        env={**os.environ, "PIP_NO_INDEX": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_it_says_what_it_begins_and_how_long_it_took(tmp_path: Path) -> None:
    (tmp_path / "some.txt").write_text("django\n")
    done = install(tmp_path / "some.txt")
    assert done.returncode == 0
    first, last = done.stderr.splitlines()
    assert first.endswith("some.txt, the first time")
    assert last.endswith(" s")


def test_a_failure_shows_what_pip_said(tmp_path: Path) -> None:
    (tmp_path / "none.txt").write_text("no-such-thing-of-ours\n")
    done = install(tmp_path / "none.txt")
    assert done.returncode == 1
    assert "No matching distribution found for no-such-thing-of-ours" in done.stderr
    assert "cannot be installed" in done.stderr
