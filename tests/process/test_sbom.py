"""``make sbom``: the list of what runs with the product."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.deployments import ROOT
from tests.support.services import require
from workers.version import VERSION


def wanted(name: str) -> list[Requirement]:
    """Return what a list of requirements asks this Python for."""
    lines = [line.partition("#")[0].strip() for line in (ROOT / name).read_text().splitlines()]
    found = [Requirement(line) for line in lines if line and not line.startswith("-")]
    return [one for one in found if one.marker is None or one.marker.evaluate()]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_it_has_what_runs_with_version_and_licence_and_nothing_of_the_tests(tmp_path: Path) -> None:
    require("registry")
    file = tmp_path / "drakkar.cdx.json"
    argv = [sys.executable, "integration/bin/sbom.py", "-o", str(file)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    made: dict[str, Any] = json.loads(file.read_text())
    assert (made["bomFormat"], made["specVersion"]) == ("CycloneDX", "1.6")
    product = made["metadata"]["component"]
    assert (product["name"], product["version"]) == ("drakkar", VERSION)
    parts = {canonicalize_name(part["name"]): part for part in made["components"]}
    pinned = {canonicalize_name(one.name): one.specifier for one in wanted("constraints.txt")}
    runtime = {canonicalize_name(one.name) for one in wanted("requirements.txt")}
    assert runtime <= parts.keys()
    for name in runtime:
        assert parts[name]["licenses"], name
        assert parts[name]["purl"].startswith("pkg:pypi/"), name
    for name, part in parts.items():
        assert name not in pinned or pinned[name].contains(part["version"]), name
    tests = {canonicalize_name(one.name) for one in wanted("requirements-dev.txt")}
    assert not tests & parts.keys()
    depends = {each["ref"]: each.get("dependsOn", ()) for each in made["dependencies"]}
    direct = {canonicalize_name(ref.partition("==")[0]) for ref in depends[product["bom-ref"]]}
    assert direct == runtime
