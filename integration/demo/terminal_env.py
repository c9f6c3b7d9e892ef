"""The file ``.run/env``: what another terminal has to know of a running demo.

A person reads it by ``source .run/env``.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path

NAME = "env"
"""Of the file, in the folder of the run."""
_OF_A_PROCESS = ("PATH", "PYTHONUNBUFFERED")
"""What the demo's processes are given and a person's shell is not."""


def terminal_environment(
    shared: Mapping[str, str], *, brokers: str, clusters: Iterable[str], config: Path, url: str
) -> dict[str, str]:
    """Return the variables for another terminal: ``shared`` is what the demo's processes have.

    ``clusters`` are the names of those that use ``brokers``; ``config`` is the file with the
    configuration; ``url`` the page's address. DRAKKAR_URL and DRAKKAR_TOKEN are for calls of the
    API, DRAKKAR_BROKERS for programs that know of no cluster.
    """
    return {
        "DRAKKAR_CONFIG": str(config.resolve()),
        **{name: value for name, value in shared.items() if name not in _OF_A_PROCESS},
        **{f"DRAKKAR_CLUSTERS__{_folded(name)}__KAFKA__BROKERS": brokers for name in clusters},
        "DRAKKAR_BROKERS": brokers,
        "DRAKKAR_URL": url,
        "DRAKKAR_TOKEN": shared["DRAKKAR_SITE__AUTH_TOKEN"],
    }


def _folded(name: str) -> str:
    return name.upper().replace("-", "_").replace(".", "_")


def write_terminal_env(run: Path, variables: Mapping[str, str]) -> Path:
    """Write ``export NAME='value'`` lines to ``run/env``, whole or not at all; return its path.

    It holds secrets: from its first byte on it is this user's alone (mode 0600).
    """
    path, unfinished = run / NAME, run / f"{NAME}.new"
    unfinished.unlink(missing_ok=True)
    lines = [f"export {name}={_quoted(value)}\n" for name, value in variables.items()]
    with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        out.writelines(lines)
    unfinished.replace(path)
    return path


def remove_terminal_env(run: Path) -> None:
    """Remove the file at the end of a run: nobody sources addresses at which nothing is."""
    (run / NAME).unlink(missing_ok=True)


def _quoted(value: str) -> str:
    quoted = shlex.quote(value)
    return quoted if quoted != value else f"'{value}'"
