"""The launcher in C is used where it fits this release; else the one in Python is."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.services import require
from workers.executor import native

SOURCE = native.LIBRARY.with_name("launch.c")


@pytest.mark.parametrize(
    "source",
    ["int other(void) { return 0; }", SOURCE.read_text() + "/* */"],
    ids=["of something else", "of another release"],
)
def test_a_library_that_does_not_fit_leaves_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    monkeypatch.setattr(native, "LIBRARY", _build(tmp_path, source))
    shutil.copy(SOURCE, tmp_path)  # As after an update: the library is of the day before.
    assert native.load() is None
    assert native.make_launcher("native", 1, None, 0, None).name == "python"


def test_the_library_of_this_release_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "LIBRARY", _build(tmp_path, SOURCE.read_text()))
    assert native.make_launcher("native", 1, None, 0, None).name == "native"


def _build(folder: Path, source: str) -> Path:
    require("launcher")
    (folder / "launch.c").write_text(source)
    library = folder / "launch.so"
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-o", str(library), str(folder / "launch.c")], check=True
    )
    return library
