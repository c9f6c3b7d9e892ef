"""Running a program of this checkout as a user other than root."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
NOBODY = 65534
_USER = (f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
CANDIDATES = (sys.executable, "/usr/local/bin/python3", "/usr/bin/python3")
PROBE = """
import subprocess, sys, workers.executor.spawn
subprocess.run([sys.executable, "-c", ""], check=True)
sys.exit(sys.version_info < (3, 11))
"""


def as_ordinary_user(*argv: str) -> list[str]:
    """``argv`` as nobody where we are root, else as it is."""
    if os.geteuid() != 0:
        return list(argv)
    return ["setpriv", *_USER, *argv]


def without_rights(*argv: str) -> list[str]:
    """``argv`` as an ordinary user who has no capability, nor a way to one."""
    if os.geteuid() != 0:
        return ["setpriv", "--no-new-privs", *argv]
    rights = ["--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"]
    return ["setpriv", *_USER, *rights, *argv]


@functools.cache
def interpreter() -> str | None:
    """A Python 3.11 or newer that an ordinary user can run in this checkout; None without one."""
    if os.geteuid() == 0 and shutil.which("setpriv") is None:
        return None
    for python in CANDIDATES:
        argv = as_ordinary_user(python, "-B", "-c", PROBE)
        try:
            done = subprocess.run(argv, cwd=CHECKOUT, capture_output=True, timeout=30, check=False)
        except OSError:
            continue
        if done.returncode == 0:
            return python
    return None


def missing() -> str | None:
    """Why nothing can be run as an ordinary user here; None when it can."""
    if interpreter() is not None:
        return None
    return f"none of {', '.join(CANDIDATES)} can be run by an ordinary user in {CHECKOUT}"
