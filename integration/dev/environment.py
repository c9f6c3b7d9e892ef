"""Environment of what runs in this folder, for commands in another terminal."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path

from integration.demo.folder import RUN, holder
from integration.demo.terminal_env import NAME

PREFIX = "DRAKKAR_"


def running_environment(given: Mapping[str, str], run: Path = RUN) -> dict[str, str]:
    """Return the variables of the demo or ``drakkar dev`` that runs here.

    None of them where nothing runs, where the environment names something of ours itself, and
    where the file is another user's.
    """
    if any(name.startswith(PREFIX) and name != "DRAKKAR_RUN_DIR" for name in given):
        return {}
    path = run / NAME
    try:
        if path.stat().st_uid != os.geteuid() or holder() is None:
            return {}
        text = path.read_text()
    except OSError:
        return {}
    words = shlex.split(text)
    pairs = (word.partition("=") for word in words if "=" in word)
    return {name: value for name, _, value in pairs if name.startswith(PREFIX)}
