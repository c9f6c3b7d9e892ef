"""docs/extending.md, followed: what is left out of its rows is found by the test that they name."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "extending.md"
ROW = re.compile(r"^\| `([^`]+)` \| .* \| `(tests/[^`]+)` \|$", re.MULTILINE)
SECTION = re.compile(r"^## Add an? (\w+)\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
KINDS = ("sink", "page", "event", "metric", "action", "command")
GONE = None
"""The whole file is left out."""
LEFT_OUT: dict[tuple[str, str], str | None] = {
    ("sink", "docs/configuration.md"): "Kind `file`",
    ("sink", "tests/contract/sinks/<file>.py"): GONE,
    ("page", "drakkar_site/urls.py"): r'    path\("versions", .*\n',
    ("page", "drakkar_site/navigation.py"): r'    Entry\(name="versions".*\n',
    ("event", "docs/events.md"): r"^\| `breaker_opened` .*\n",
    ("event", "workers/runtime/listeners/counters.py"): "_on_(?=skipped)",
    ("metric", "docs/metrics.md"): r"^\| `drakkar_listener_errors_total` .*\n",
    ("action", "workers/runtime/command_executor.py"): r"^            case Action.DRAIN, _:\n.*\n",
    ("action", "docs/operations.md"): r"^\| `drain` .*\n",
    ("command", "drakkar/cli.py"): r'    Command\(Section.LOOK, "tail".*\n',
    ("command", "docs/operations.md"): "manage.py export_recorder",
}
"""A row for each test of the page: a pattern, whose finds are taken away."""


def rows() -> list[tuple[str, str, str]]:
    """Kind of thing, file and test of each row of the page."""
    return [
        (kind, file, test)
        for kind, text in SECTION.findall(PAGE.read_text())
        for file, test in ROW.findall(text)
    ]


def test_each_kind_of_thing_has_its_rows_and_each_row_its_file() -> None:
    assert {kind for kind, _, _ in rows()} == set(KINDS)
    assert {test for *row, test in rows() if tuple(row) in LEFT_OUT} == {row[2] for row in rows()}
    for _, file, test in rows():
        assert (ROOT / file.replace("<", "").replace(">", "")).is_file(), file
        path, _, name = test.partition("::")
        assert f"def {name}(" in (ROOT / path).read_text(), test


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout."""
    copy = tmp_path_factory.mktemp("extending") / "tree"
    left = shutil.ignore_patterns(".git", ".venv", ".run", "node_modules", "__pycache__", ".*cache")
    shutil.copytree(ROOT, copy, ignore=left)
    return copy


@pytest.fixture
def without(tree: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """The copy, with one row of the page left out of it."""
    kind, file = request.param
    path = tree / file.replace("<", "").replace(">", "")
    before = path.read_text()
    pattern = LEFT_OUT[kind, file]
    if pattern is GONE:
        path.unlink()
    else:
        after = re.sub(pattern, "", before, flags=re.MULTILINE)
        assert after != before, f"{file}: expected {pattern}"
        path.write_text(after)
    yield tree
    path.write_text(before)


@pytest.mark.parametrize(
    ("without", "test"),
    [
        pytest.param((kind, file), test, id=f"{kind}-{file}")
        for kind, file, test in rows()
        if (kind, file) in LEFT_OUT
    ],
    indirect=["without"],
)
def test_a_row_left_out_is_found(without: Path, test: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", test],
        cwd=without,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode != 0, f"{test} did not notice:\n{done.stdout}"
