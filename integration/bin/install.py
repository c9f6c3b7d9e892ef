"""``install.py REQUIREMENTS``: pip install, with one line that says how far it is.

Standard library only: it runs in the virtual environment while that is still empty.
"""

from __future__ import annotations

import subprocess
import sys
import time

SHOWN_CHARS = 60
TAIL_LINES = 20


def main(requirements: str) -> int:
    """Return pip's exit code; the end of what pip said is shown where it failed."""
    argv = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
    argv += ["--progress-bar", "off", "-r", requirements, "-c", "constraints.txt"]
    started, said, count = time.monotonic(), list[str](), 0
    _show(f"packages of {requirements}, the first time")
    with subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as pip:
        assert pip.stdout is not None
        for line in pip.stdout:
            said.append(line)
            words = line.split()
            if words[:1] == ["Collecting"]:
                count += 1
                _show(f"packages: {count} found, {words[1]}")
            elif words[:1] == ["Installing"]:
                _show(f"packages: installing {count}")
    if pip.returncode:
        sys.stderr.write("\n" + "".join(said[-TAIL_LINES:]))
        sys.stderr.write(f"packages of {requirements} cannot be installed\n")
    else:
        _show(f"packages of {requirements}: {time.monotonic() - started:.1f} s")
        sys.stderr.write("\n" if sys.stderr.isatty() else "")
    return pip.returncode


def _show(text: str) -> None:
    """On a terminal the line is written over; elsewhere only its first and last state are."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K  {text:.{SHOWN_CHARS}}")
    elif not text.startswith("packages: "):
        sys.stderr.write(f"  {text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
