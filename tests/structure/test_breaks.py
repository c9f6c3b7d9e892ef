"""Each break of ``make breaks`` fits the product as it stands and names tests that are there."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.breaks import run


@pytest.mark.parametrize("patch", sorted(run.PATCHES.glob("*.patch")), ids=lambda patch: patch.stem)
def test_a_break_applies_and_its_tests_are_there(patch: Path) -> None:
    argv = ["git", "apply", "--check", str(patch)]
    checked = subprocess.run(argv, cwd=run.ROOT, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    files = [word for word in run.tests_of(patch) if word.endswith(".py")]
    assert files
    assert all((run.ROOT / name).is_file() for name in files)
