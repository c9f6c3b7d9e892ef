"""``sbom.py -o FILE [ENVIRONMENT]``: which Python packages run with the product, as CycloneDX.

Those of a virtual environment; of none named, those that requirements.txt brings into an empty one.
The tool has an environment of its own, since what it needs would change what others find.
"""

from __future__ import annotations

import argparse
import json
import re
import runpy
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TOOL = "cyclonedx-bom"


def main() -> int:
    """Return 0, or what pip or the tool returned."""
    parser = argparse.ArgumentParser(prog="sbom.py", description=__doc__)
    parser.add_argument("-o", dest="file", metavar="FILE", type=Path, required=True)
    parser.add_argument("environment", nargs="?", type=Path)
    asked = parser.parse_args()
    asked.file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            tool = _made(folder / "tool", TOOL)
            product = asked.environment or _made(
                folder / "product", "-r", str(ROOT / "requirements.txt")
            )
            project = folder / "pyproject.toml"
            project.write_text(_described())
            argv = [str(tool / "bin" / "cyclonedx-py"), "environment", "--pyproject", str(project)]
            argv += ["--output-reproducible", "-o", str(asked.file.resolve()), str(product)]
            subprocess.run(argv, check=True)
        except subprocess.CalledProcessError as failed:
            sys.stderr.write(f"{' '.join(map(str, failed.cmd))}: exit code {failed.returncode}\n")
            return failed.returncode
    return 0


def _made(folder: Path, *packages: str) -> Path:
    venv.create(folder, symlinks=True)
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install"]
    options = ["--quiet", "--no-compile", "--disable-pip-version-check", "--no-input"]
    constraints = ["-c", str(ROOT / "constraints.txt")]
    subprocess.run([*pip, *options, *packages, *constraints], check=True)
    return folder


def _described() -> str:
    """Return what the project says of itself, with the version and dependencies of its files."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements = (ROOT / "requirements.txt").read_text().splitlines()
    lines = [line.partition("#")[0].strip() for line in requirements]
    described = {
        **{key: project[key] for key in ("name", "description", "license")},
        "version": runpy.run_path(str(ROOT / "workers" / "version.py"))["VERSION"],
        "dependencies": [re.sub(r"\s+", "", line) for line in lines if line],
    }
    # A text or a list of texts is written in TOML as in JSON.
    return "\n".join(["[project]", *(f"{key} = {json.dumps(described[key])}" for key in described)])


if __name__ == "__main__":
    sys.exit(main())
