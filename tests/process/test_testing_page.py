"""The tests that docs/testing-a-handler.md shows, beside the handler of the quick start."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import yaml

from drakkar.testing import load
from tests.support.doc_commands import Block, blocks

ROOT = Path(__file__).resolve().parents[2]
PAGE = "docs/testing-a-handler.md"


def of_page(language: str) -> list[Block]:
    return [block for block in blocks() if (block.page, block.language) == (PAGE, language)]


def test_the_tests_of_the_page_pass(tmp_path: Path) -> None:
    (tmp_path / "my_words.py").write_text((ROOT / "docs/examples/word_count.py").read_text())
    cluster = {
        "handler": "my_words:WordCountHandler",
        "kafka": {"topic": "files", "group": "words"},
        "executor": {"binary": "wc"},
        "sinks": {"counts": {"kind": "kafka", "topic": "counts"}},
    }
    site = {"database_url": "postgresql://u@127.0.0.1:1/d", "secret_key": "k" * 40}
    content = yaml.safe_dump({"site": site, "clusters": {"words": cluster}})
    (tmp_path / "drakkar.yaml").write_text(content)
    shown = of_page("python")
    for number, block in enumerate(shown):
        (tmp_path / f"test_{number}.py").write_text(block.text)
    assert len(shown[0].text.rstrip().splitlines()) <= 10
    ours = ("DJANGO_", "DRAKKAR_", "PYTEST_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "drakkar.testing.fixtures"],
        cwd=tmp_path, env=kept | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        timeout=100, check=False,
    )  # fmt: skip
    assert f"{len(shown)} passed" in done.stdout, done.stdout + done.stderr


def test_the_recorded_message_of_the_page_can_be_loaded(tmp_path: Path) -> None:
    (block,) = of_page("text")
    path = tmp_path / "requests.jsonl"
    path.write_text(block.text)
    (given,) = load(path)
    assert json.loads(given.value or b"") == {"file_path": "a.txt"}
    assert given.headers == [("trace", b"a")]
