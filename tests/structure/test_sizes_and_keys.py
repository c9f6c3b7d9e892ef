"""What no reader should have to check: function sizes, import contracts, documented keys and
kinds."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from drakkar_site.config.tree import SiteConfig
from sinks.registry import find, known_kinds
from workers.config import ClusterConfig

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("domain", "workers", "sinks", "recorder", "drakkar_site", "integration")
MAX_LINES = 50


def functions() -> Iterator[tuple[str, int]]:
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*.py"):
            if "migrations" in path.parts:
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                    size = (node.end_lineno or node.lineno) - node.lineno + 1
                    doc = ast.get_docstring(node, clean=False)
                    own = size - (len(doc.splitlines()) if doc else 0)
                    yield f"{path.relative_to(ROOT)}:{node.lineno} {node.name}", own


def test_no_function_is_longer_than_fifty_lines() -> None:
    assert [(name, size) for name, size in functions() if size > MAX_LINES] == []


def test_the_import_contracts_hold() -> None:
    linter = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run([linter], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        inner: Any = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from keys(inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


@pytest.mark.parametrize("model", [SiteConfig, ClusterConfig])
def test_every_configuration_key_is_documented(model: type[BaseModel]) -> None:
    text = (ROOT / "docs" / "configuration.md").read_text()
    assert [key for key in keys(model) if f"| `{key}` |" not in text] == []


def test_every_sink_kind_and_its_keys_are_documented() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text()
    for kind in known_kinds():
        assert f"Kind `{kind}`" in text
        assert [key for key in keys(find(kind).config) if f"| `{key}` |" not in text] == []
