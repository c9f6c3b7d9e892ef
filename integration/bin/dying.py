"""``dying.py SIGNAL COMMAND...``: becomes a command that gets the signal when its parent ends.

``DYING_PARENT`` may name the parent: then nothing is started when that one ended even earlier, for
it sends no signal any more. Linux only; elsewhere the command has no such bond.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PARENT = "DYING_PARENT"
SET_DEATH_SIGNAL = 1


def main() -> None:
    """Never returns. Exit code 1 when the parent is gone, 127 when the command cannot start."""
    name, *argv = sys.argv[1:]
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(SET_DEATH_SIGNAL, int(signal.Signals[f"SIG{name}"]), 0, 0, 0) != 0:
            sys.exit(f"prctl: {os.strerror(ctypes.get_errno())}")
    parent = os.environ.pop(PARENT, "")
    if parent and int(parent) != os.getppid():
        sys.exit(1)
    # Python ignores these two, and what is ignored stays so over exec.
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvp(argv[0], argv)
    except OSError as exc:
        sys.stderr.write(f"{argv[0]}: {exc.strerror}\n")
        sys.exit(127)


if __name__ == "__main__":
    main()
