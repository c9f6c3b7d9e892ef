"""The JavaScript of the pages: its unit tests, run by node."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.support.services import require

ROOT = Path(__file__).resolve().parents[2]


def test_the_modules_of_the_pages_keep_their_tests() -> None:
    require("node")
    files = sorted(str(each) for each in (ROOT / "tests" / "javascript").glob("*.test.js"))
    assert files
    node = shutil.which("node")
    assert node is not None
    ran = subprocess.run(
        [node, "--test", *files], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode == 0, ran.stdout[-4000:] + ran.stderr[-2000:]
