"""docs/your-own-repository.md, done as it stands there: from an empty folder to a result."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from integration.verdict.facts import Topics
from tests.support.doc_commands import blocks
from tests.support.services import require
from tests.support.worker_process import until

PAGE = "docs/your-own-repository.md"
PLACE = "/path/to/drakkar"
LIMIT_SECONDS = 540
"""Patience with a busy machine; how long it took is said at the end of the run."""
INSTALL, MAKE, DEV, SEND, TEST = (
    block.text for block in blocks() if block.page == PAGE and block.language == ""
)


class Typist:
    """Someone who types the page's blocks in a folder; what has to happen in time is awaited."""

    def __init__(self, folder: Path, place: Path) -> None:
        self.folder = folder
        self._place = place
        self._began = time.monotonic()
        self._has_ended: Callable[[], bool] = lambda: False

    @property
    def seconds(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._began

    @property
    def _left(self) -> float:
        return LIMIT_SECONDS - self.seconds

    def script(self, block: str) -> str:
        """A block as a shell script that stops at the first command that fails."""
        return f"set -e\n{block.replace(PLACE, str(self._place))}"

    def types(self, block: str, folder: Path) -> str:
        """Type a block there; what it printed. It has to end well and in time."""
        done = subprocess.run(
            ["bash", "-c", self.script(block)],
            cwd=folder,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=self._left,
            check=False,
        )
        assert done.returncode == 0, f"{block}\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    @contextmanager
    def running(self, block: str, folder: Path) -> Iterator[Path]:
        """Type a block there that does not end by itself; its log. Ctrl-C ends it."""
        log = self.folder / "dev.log"
        activate = "source ../.venv/bin/activate\n"  # the same terminal as before
        with log.open("w") as out:
            process = subprocess.Popen(
                ["bash", "-c", self.script(f"{activate}exec {block}")],
                cwd=folder, env=environment(), stdout=out, stderr=out, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        self._has_ended = lambda: process.poll() is not None
        try:
            yield log
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0, log.read_text()
        finally:
            process.kill()
            process.wait()

    def awaits(self, text: str, log: Path) -> None:
        """Wait until the log says it, or what writes it has ended."""
        until(lambda: text in log.read_text() or self._has_ended(), repr(text), self._left)
        assert text in log.read_text(), log.read_text()


def environment() -> dict[str, str]:
    """A shell of somebody who never heard of us."""
    ours = ("DRAKKAR_", "DJANGO_", "PYTHON", "VIRTUAL_ENV")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


@pytest.fixture
def wheel(clone: Path, tmp_path: Path) -> Path:
    """A wheel, made as the page says."""
    making = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "."]
    subprocess.run(making, cwd=clone, env=environment(), check=True, timeout=120)
    (made,) = clone.glob("*.whl")
    return made.rename(tmp_path / made.name)


@pytest.mark.slow
@pytest.mark.timeout(LIMIT_SECONDS + 120)
@pytest.mark.parametrize("source", ["clone", "wheel"])
def test_from_an_empty_folder_to_a_result(
    source: str,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    record_property: Callable[[str, object], None],
) -> None:
    require("mock")
    require("postgres")
    place = request.getfixturevalue(source)
    folder = tmp_path / "empty"
    folder.mkdir()
    typist = Typist(folder, place)
    typist.types(INSTALL + MAKE, folder)
    project = folder / "mytool"
    with typist.running(DEV, project) as log:
        typist.awaits("In another terminal:", log)
        said = typist.types(SEND, project)
        assert "stored as mytool-requests:" in said
        assert ".run/env" in said
        typist.awaits("first message delivered: result at topic mytool-results", log)
        took = f"from an empty folder to a result by the {source}: {typist.seconds:.0f} s"
        record_property("said", took)
        assert result_of(project) == {
            "text": "one two three",
            "output": json.dumps({"words": 3, "longest": "three"}),
        }
        typist.types(f"source ../.venv/bin/activate\n{TEST}", project)
    assert not (project / ".run" / "env").exists()


def result_of(project: Path) -> object:
    """The one value in the topic of results."""
    words = shlex.split((project / ".run" / "env").read_text())
    told = dict(word.split("=", 1) for word in words if "=" in word)
    (record,) = Topics(told["DRAKKAR_BROKERS"], "reader").read("mytool-results")
    return json.loads(record.value() or b"")
