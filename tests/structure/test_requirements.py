"""What the code imports is installed by the list of requirements that is made for it."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OURS = {"docs", "domain", "drakkar", "drakkar_site", "integration", "recorder", "sinks", "workers"}
PRODUCT = ("domain", "drakkar", "drakkar_site", "recorder", "sinks", "workers")
DEMO = tuple(
    f"integration/{name}" for name in ("corpus", "demo", "handlers", "services", "verdict")
)
OPTIONAL = {"pyarrow", "pytest", "uvloop"}
"""Of extras, and of ``drakkar.testing``, which pytest itself loads."""

COMES_WITH = {
    "asgiref": "django",
    "psycopg_pool": "psycopg",
    "pydantic_core": "pydantic",
    "urllib3": "requests",
}
"""Modules of a distribution that another one, or an extra of it, brings along."""


def named(file: str) -> set[str]:
    """Return the distributions of a list, with those of the lists that it takes in."""
    found = set[str]()
    for line in (ROOT / file).read_text().splitlines():
        words = line.partition("#")[0].split()
        if words[:1] == ["-r"]:
            found |= named(words[1])
        elif words:
            found.add(re.split(r"[\[<>=~!]", words[0])[0])
    return found


def imported(folder: str) -> set[str]:
    """Return the modules of others that the code of a folder imports, by their first name."""
    found = set[str]()
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add((node.module or "").split(".")[0])
    return found - OURS - set(sys.stdlib_module_names)


def normal(name: str) -> str:
    """Return a distribution's name as registries compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize(
    ("folder", "file"),
    [
        *((folder, "requirements.txt") for folder in PRODUCT),
        *((folder, "requirements-demo.txt") for folder in DEMO),
    ],
)
def test_what_is_imported_is_required(folder: str, file: str) -> None:
    known, wanted = packages_distributions(), {normal(name) for name in named(file)}
    for module in imported(folder) - OPTIONAL:
        brought_by = [COMES_WITH[module]] if module in COMES_WITH else known[module]
        assert {normal(name) for name in brought_by} & wanted, f"{folder} imports {module}"


def test_the_lists_take_in_one_another_and_the_extra_has_the_demo_s() -> None:
    assert (
        named("requirements.txt") < named("requirements-demo.txt") < named("requirements-dev.txt")
    )
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert named("requirements-demo.txt") - named("requirements.txt") <= set(extra["demo"])
