"""What no reader should have to check: function sizes, import contracts, documented keys and
kinds."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.apps import apps
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from drakkar_site.config.tree import SiteConfig
from recorder.databases import HISTORY_MODELS
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


def keys(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    for name, field in model.model_fields.items():
        inner: Any = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from keys(inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


def default_of(field: FieldInfo) -> str:
    """As docs/configuration.md writes it."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True, validated_data={})
    if isinstance(value, tuple | list):
        return f"[{', '.join(str(each) for each in value)}]"
    if value is None:
        return "none"
    return "''" if value == "" else str(value)


def chapter(heading: str) -> dict[str, str]:
    """Default by key of the tables below a heading."""
    text = (ROOT / "docs" / "configuration.md").read_text()
    part = text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `([\w.]+)` \| ([^|]*) \|", part, re.MULTILINE)
    return {key: default.strip("`") for key, default in rows}


OF_THE_MACHINE = {"executor.spawners"}
SAID_IN_PROSE = {("http", "max_batch")}


@pytest.mark.parametrize(
    ("heading", "model"), [("`site`", SiteConfig), ("`clusters.<name>`", ClusterConfig)]
)
def test_every_key_is_documented_with_its_default(heading: str, model: type[BaseModel]) -> None:
    told = chapter(heading)
    named = {key: default_of(field) for key, field in keys(model) if key not in OF_THE_MACHINE}
    assert {key: told.get(key) for key in named} == named
    assert told.keys() - named.keys() <= OF_THE_MACHINE


@pytest.mark.parametrize("kind", sorted(known_kinds()))
def test_every_key_of_a_kind_of_sink_is_documented_with_its_default(kind: str) -> None:
    assert f"Kind `{kind}`" in (ROOT / "docs" / "configuration.md").read_text()
    told = chapter("`clusters.<name>.sinks.<name>`")
    fields = [each for each in keys(find(kind).config) if (kind, each[0]) not in SAID_IN_PROSE]
    named = {key: default_of(field) for key, field in fields}
    assert {key: told.get(key) for key in named} == named


def test_each_model_of_the_recorder_has_its_database() -> None:
    """What is written in one transaction with events stands in the history: say so of a new one."""
    control = {"run", "runstate", "runtrack", "prunedruns", "exportjob"}
    known = {model._meta.model_name for model in apps.get_app_config("recorder").get_models()}
    assert known == control | HISTORY_MODELS
