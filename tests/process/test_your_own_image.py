"""An image of one's own upon ours: built, and its handler run there on one message."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from drakkar.scaffold import main as init
from tests.support import ordinary_user
from tests.support.doc_commands import blocks
from tests.support.images import (
    OF_THE_SYSTEM,
    Image,
    InFolder,
    builder,
    in_container,
    in_folder,
)
from tests.support.services import require
from workers.version import VERSION

OURS = f"drakkar:{VERSION}"
HAS_LAUNCHER = "from workers.executor.native import load; assert load() is not None"
FINDS_BOTH = "import mytool, drakkar_site"


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that everybody may look into, as the user of an image has to."""
    folder = Path(tempfile.mkdtemp(prefix="drakkar-image-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def project(place: Path) -> Path:
    """A repository of a user's, as ``drakkar init`` writes it."""
    folder = place / "mytool"
    assert init(["mytool", "--folder", str(folder), "--yes"]) == 0
    return folder


def look_at(image: Image) -> None:
    """Its configuration is right, one message gets its result, and its parts find each other."""
    checked = image.run("check")
    assert "no issues" in checked.stdout, checked.stderr
    value = '{"text": "one two three"}'
    probed = image.run("probe_message", "--cluster", "mytool", "--value", value)
    assert "fate: delivered" in probed.stdout, probed.stdout + probed.stderr
    for code in (HAS_LAUNCHER, FINDS_BOTH):
        found = image.run(program=["python", "-c", code])
        assert found.returncode == 0, found.stderr
    assert image.run(program=["daphne", "--help"]).returncode == 0


def files(image: InFolder) -> set[Path]:
    """What is in an image, but for the folder that may be written to."""
    state = image.path("/var/lib/drakkar")
    return {path for path in image.root.rglob("*") if not path.is_relative_to(state)}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_its_steps_in_a_folder_give_a_handler_that_runs(
    place: Path, project: Path, clone: Path, record_property: Callable[[str, object], None]
) -> None:
    require("registry")
    require("launcher")
    user = ordinary_user.interpreter()
    ours = in_folder(clone / "Dockerfile", place / "image", user or sys.executable)
    assert ours.left_out - {"chown"} == OF_THE_SYSTEM
    listed = json.loads(ours.path("/usr/share/doc/drakkar/drakkar.cdx.json").read_text())
    assert {"Django", "confluent-kafka"} <= {part["name"] for part in listed["components"]}
    image = in_folder(project / "Dockerfile", place / "image", "", {OURS: ours})
    assert (image.user, image.entry) == ("drakkar", ("tini", "--", "drakkar"))
    assert image.command == ("runworker", "--cluster", "mytool")
    before = files(image)
    look_at(image)
    # Nothing listens at port 1: the check is found and says so.
    assert image.run("1", program=image.health).returncode == 1
    assert files(image) == before
    if os.geteuid() == 0 and user is not None:
        assert image.run(program=["touch", "mine"]).returncode != 0
        assert image.run(program=["touch", "/var/lib/drakkar/mine"]).returncode == 0
    who = "its files are root's, it ran as nobody" if user else "it ran as the user of this test"
    record_property("said", f"images: steps run in a folder, without a builder; {who}")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_builder_builds_it(project: Path, clone: Path) -> None:
    require("builder")
    tool = builder() or ""
    in_container(tool, clone, "drakkar-test:ours")
    look_at(in_container(tool, project, "drakkar-test:own", "drakkar-test:ours"))


def test_the_page_shows_the_file_that_is_written(project: Path) -> None:
    (first, *_) = (block for block in blocks() if block.page == "docs/your-own-image.md")
    written = (project / "Dockerfile").read_text().splitlines()
    assert first.text.splitlines() == [line for line in written if not line.startswith("#")]
