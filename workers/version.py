"""The version of this code, recorded with each run."""

from __future__ import annotations

import sys
from collections.abc import Sequence

VERSION = "0.1.0"


def said_version(arguments: Sequence[str]) -> bool:
    """Print Drakkar's version where a command line asks for one; Django would print its own."""
    is_asked = arguments[1:2] == ["version"] or "--version" in arguments[1:]
    if is_asked:
        sys.stdout.write(f"Drakkar {VERSION}\n")
    return is_asked
