"""Damages a copy of the product on purpose, one patch at a time; its tests must notice.

A patch in ``patches/`` begins with lines ``# tests: <pytest arguments>``; the rest is a unified
diff.
Exit 1 when a patch does not apply, or when its tests stay green on the damaged copy.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PATCHES = Path(__file__).resolve().parent / "patches"
TIMEOUT_SECONDS = 240
TESTS = "# tests: "
FAILED = 1
"""pytest's exit code for failed tests; any other is not a verdict on the damage."""


def tracked_copy(folder: Path) -> None:
    """The files git tracks, as they stand in the working tree."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True
    ).stdout.decode()
    for name in filter(None, listed.split("\0")):
        source, target = ROOT / name, folder / name
        if source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)


def tests_of(patch: Path) -> list[str]:
    """The pytest arguments a patch names. Raises ValueError when it names none."""
    lines = patch.read_text().splitlines()
    words = [
        word for line in lines if line.startswith(TESTS) for word in line[len(TESTS) :].split()
    ]
    if not words:
        raise ValueError(f"{patch.name}: expected a line '{TESTS}...', got none")
    return words


def judge(patch: Path) -> str | None:
    """None when the damage was noticed, else what went wrong."""
    with tempfile.TemporaryDirectory(prefix="drakkar-break-") as name:
        folder = Path(name)
        tracked_copy(folder)
        applied = subprocess.run(
            ["git", "apply", "--unsafe-paths", f"--directory={folder}", str(patch)],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        if applied.returncode != 0:
            return f"does not apply: {applied.stderr.strip()}"
        return run_tests(folder, tests_of(patch))


def run_tests(folder: Path, arguments: list[str]) -> str | None:
    """Run the named tests in the damaged copy; a hang counts as noticed."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *arguments]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return None
    if done.returncode == FAILED:
        return None
    tail = "\n".join(done.stdout.splitlines()[-15:])
    state = "tests stayed green" if done.returncode == 0 else f"pytest ended with {done.returncode}"
    return f"{state}:\n{tail}"


def main() -> int:
    """Judge every patch, or those named on the command line."""
    chosen = sys.argv[1:]
    patches = sorted(p for p in PATCHES.glob("*.patch") if not chosen or p.stem in chosen)
    failures = 0
    for patch in patches:
        began = time.monotonic()
        problem = judge(patch)
        failures += problem is not None
        verdict = "noticed" if problem is None else f"NOT NOTICED: {problem}"
        print(f"{patch.stem:32} {time.monotonic() - began:6.1f} s  {verdict}", flush=True)
    print(f"{len(patches) - failures} of {len(patches)} breaks noticed")
    return 0 if patches and not failures else 1


if __name__ == "__main__":
    sys.exit(main())
