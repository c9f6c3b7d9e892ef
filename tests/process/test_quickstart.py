"""What quick start and README tell a newcomer to type works as written."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import yaml

CHECKOUT = Path(__file__).resolve().parents[2]
PAGES = ("docs/quickstart.md", "README.md")
SITE = {"database_url": "postgresql://127.0.0.1:5432/drakkar", "secret_key": "s" * 50}


@pytest.mark.parametrize("page", PAGES)
def test_every_make_target_named_exists(page: str) -> None:
    named = set(re.findall(r"\bmake ([a-z-]+)", (CHECKOUT / page).read_text()))
    targets = set(re.findall(r"^([a-z-]+):", (CHECKOUT / "Makefile").read_text(), re.MULTILINE))
    assert named
    assert named <= targets


@pytest.mark.parametrize("page", PAGES)
def test_every_management_command_named_exists(page: str) -> None:
    named = set(re.findall(r"manage\.py ([a-z_]+)", (CHECKOUT / page).read_text()))
    said = subprocess.run(
        [sys.executable, "manage.py", "help", "--commands"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout
    assert named <= set(said.split())


def test_the_cluster_of_the_quick_start_is_valid_in_a_folder_of_its_own(tmp_path: Path) -> None:
    text = (CHECKOUT / "docs" / "quickstart.md").read_text()
    (block,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    config = {"site": SITE, **yaml.safe_load(textwrap.dedent("   " + block.lstrip()))}
    (tmp_path / "drakkar.yaml").write_text(yaml.safe_dump(config))
    shutil.copy(CHECKOUT / "docs" / "examples" / "word_count.py", tmp_path / "my_words.py")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("DRAKKAR_")}
    environment["PYTHONPATH"] = str(tmp_path)
    done = subprocess.run(
        [sys.executable, str(CHECKOUT / "manage.py"), "check"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "no issues" in done.stdout
