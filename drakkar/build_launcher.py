"""``drakkar build_launcher``: compile the launcher in C of an installed Drakkar.

A wheel is the same for all machines: without this, spawners start processes in Python.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Sequence

from workers.executor.native import LIBRARY, load


def parser() -> argparse.ArgumentParser:
    """The command line."""
    return argparse.ArgumentParser(
        prog="drakkar build_launcher",
        description="Compile the launcher in C, beside its source. Once for each release. "
        "Exit codes: 0 built, 1 not built (spawners start processes in Python), 2 bad use.",
    )


def main(arguments: Sequence[str]) -> int:
    """Build it and say where it lies, or why there is none."""
    parser().parse_args(arguments)
    if (compiler := shutil.which("cc")) is None:
        sys.stderr.write("cc: expected a C compiler, got none (Debian: gcc libc6-dev)\n")
        return 1
    made, source = LIBRARY.with_suffix(".new"), LIBRARY.with_name("launch.c")
    command = [compiler, "-O2", "-shared", "-fPIC", "-o", str(made), str(source)]
    if subprocess.run(command, check=False).returncode != 0:
        sys.stderr.write(f"cc: could not write {made}, see above\n")
        return 1
    made.replace(LIBRARY)
    if load() is None:
        sys.stderr.write(f"{LIBRARY}: was built and cannot be loaded here\n")
        return 1
    sys.stdout.write(f"{LIBRARY}\n")
    return 0
