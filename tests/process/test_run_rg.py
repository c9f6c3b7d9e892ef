"""run-rg as a real program: what it prints, how it fails, and that its draw can be foretold."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

import pytest

from integration.corpus import ROOT, SEARCHES, is_failure_drawn, match_count, ripgrep

PROGRAM = ROOT / "integration" / "bin" / "run-rg"
FILE = "integration/corpus/texts/offsets.py.txt"


def run(
    *args: str, request_id: str = "r", attempt: int = 1, pause: str = "0", broken_file: str = ""
) -> subprocess.CompletedProcess[str]:
    env = {
        "PATH": f"{Path(ripgrep()).parent}:/usr/bin:/bin",
        "REQUEST_ID": request_id,
        "DRAKKAR_ATTEMPT": str(attempt),
        "RUN_RG_PAUSE_SECONDS": pause,
        "RUN_RG_BROKEN_FILE": broken_file,
    }
    return subprocess.run(
        [str(PROGRAM), *args], cwd=ROOT, env=env, capture_output=True, text=True, timeout=30
    )


def test_prints_the_last_search_only() -> None:
    search = next(search for search in SEARCHES if match_count(search) > 0)
    done = run("3", search.pattern, search.file_path, "--fail=0")
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == match_count(search) > 0


def test_it_fails_while_the_file_is_there_that_breaks_it(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    assert run("1", "offset", FILE, "--fail=0", broken_file=str(broken)).returncode == 0
    broken.touch()
    done = run("1", "offset", FILE, "--fail=0", broken_file=str(broken))
    assert (done.returncode, done.stdout) == (3, "")
    assert "the index is damaged" in done.stderr


def test_no_match_is_no_failure() -> None:
    done = run("2", "kafkaesque|zeppelin", FILE, "--fail=0")
    assert (done.returncode, done.stdout) == (0, "")


def test_a_pattern_that_looks_like_an_option_is_a_pattern() -> None:
    assert run("1", "-> None", FILE, "--fail=0").stdout.count("-> None") > 0


@pytest.mark.parametrize(
    "args",
    [
        (),
        ("1", "def ", FILE),
        ("0", "def ", FILE, "--fail=0"),
        ("many", "def ", FILE, "--fail=0"),
        ("1", "def ", FILE, "0.5"),
        ("1", "def ", FILE, "--fail=often"),
    ],
)
def test_bad_use_is_told(args: tuple[str, ...]) -> None:
    done = run(*args)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: run-rg REPEAT PATTERN FILE --fail=P")


def test_rg_is_found_beside_the_interpreter_when_it_is_not_on_path(tmp_path: Path) -> None:
    """A checkout of its own, since this machine may have an rg on PATH."""
    program = tmp_path / "integration" / "bin" / "run-rg"
    program.parent.mkdir(parents=True)
    program.write_bytes(PROGRAM.read_bytes())
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("sh", "awk", "cksum", "printf", "sleep", "dirname"):
        (tools / name).symlink_to(str(shutil.which(name)))
    argv = ["/bin/sh", str(program), "1", "def ", str(ROOT / FILE), "--fail=0"]
    missing = subprocess.run(argv, env={"PATH": str(tools)}, capture_output=True, text=True)
    assert (missing.returncode, "rg is not on PATH" in missing.stderr) == (127, True)
    beside = tmp_path / ".venv" / "bin"
    beside.mkdir(parents=True)
    (beside / "rg").symlink_to(ripgrep())
    found = subprocess.run(argv, env={"PATH": str(tools)}, capture_output=True, text=True)
    assert (found.returncode, found.stderr) == (0, "")
    assert "def " in found.stdout


def test_pauses_between_searches_only() -> None:
    started = time.monotonic()
    run("3", "def ", FILE, "--fail=0", pause="0.2")
    assert 0.4 <= time.monotonic() - started < 5.0


def test_the_program_fails_exactly_where_the_corpus_foretells_it() -> None:
    for n in range(25):
        for repeat in (1, 4, 5):
            foretold = is_failure_drawn(f"r{n}", 2, 0.4)
            done = run(str(repeat), "def ", FILE, "--fail=0.4", request_id=f"r{n}", attempt=2)
            assert done.returncode == int(foretold)
            text = f"SIMULATED FAILURE at iteration {repeat // 2 + 1}/{repeat}\n"
            assert done.stderr == (text if foretold else "")


@pytest.mark.parametrize(("probability", "code"), [("0", 0), ("0.0", 0), ("1", 1), ("1.0", 1)])
def test_the_ends_of_the_scale(probability: str, code: int) -> None:
    assert run("2", "def ", FILE, f"--fail={probability}").returncode == code


@pytest.mark.parametrize(
    ("pattern", "file", "word"), [("x", "no/such/file", "no/such/file"), ("(", FILE, "regex")]
)
def test_a_search_that_cannot_be_done_fails(pattern: str, file: str, word: str) -> None:
    done = run("1", pattern, file, "--fail=0")
    assert done.returncode == 2
    assert word in done.stderr
