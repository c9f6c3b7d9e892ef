"""count-symbols.sh as a real program."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from integration.corpus import ROOT, SEARCHES, symbol_count

PROGRAM = ROOT / "integration" / "bin" / "count-symbols.sh"


def run(stdin: bytes, cwd: Path = ROOT) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [str(PROGRAM)],
        input=stdin,
        cwd=cwd,
        env={"PATH": "/usr/bin:/bin", "LANG": "C"},
        capture_output=True,
        timeout=30,
        check=False,
    )


@pytest.mark.parametrize("file", sorted({search.file_path for search in SEARCHES}))
def test_counts_what_python_counts(file: str) -> None:
    done = run(json.dumps({"file_path": file}).encode())
    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(done.stdout) == {"file_path": file, "symbol_count": symbol_count(file)}


def test_characters_are_counted_and_not_bytes(tmp_path: Path) -> None:
    (tmp_path / "-ä b$(x).txt").write_text("äöü\n")
    given = json.dumps({"file_path": "-ä b$(x).txt"}, ensure_ascii=False)
    done = run(given.encode(), tmp_path)
    assert json.loads(done.stdout) == {"file_path": "-ä b$(x).txt", "symbol_count": 4}


@pytest.mark.parametrize("given", [b"", b"{}", b'{"file_path": ""}', b'{"file_path": "a\\"b"}'])
def test_other_input_is_refused(given: bytes) -> None:
    done = run(given)
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"expected" in done.stderr


def test_a_missing_file_fails() -> None:
    done = run(b'{"file_path": "no/such/file"}')
    assert done.returncode == 1
    assert b"no/such/file" in done.stderr
