"""Versions of what a run works with: the handler's and the program's, found once at its start.

None of them is needed to work: one that cannot be found is empty, and shown as unknown.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import pwd
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from domain.masking import mask_text
from domain.printable import printable
from workers.handler import Handler
from workers.log import log

SECONDS = 2.0
MAX_CHARS = 200
MAX_ACTOR_CHARS = 150
MAX_OUTPUT_BYTES = 4096
COMMIT_DIGITS = 12
DEPLOYED_BY = "DRAKKAR_DEPLOYED_BY"


@dataclass(frozen=True, slots=True, kw_only=True)
class Versions:
    """Versions of handler and program; empty is unknown."""

    handler: str = ""
    program: str = ""


async def find_versions(
    handler: Handler[Any],
    command: Sequence[str] | None,
    *,
    env: Mapping[str, str],
    cwd: str | None,
) -> Versions:
    """Return the versions of a handler, and of the program as ``command`` prints it."""
    found, printed = await asyncio.gather(
        asyncio.to_thread(handler_version, handler),
        program_version(command, env=env, cwd=cwd),
    )
    return Versions(handler=found, program=printed)


def deployed_by(environ: Mapping[str, str]) -> str:
    """Return who started this process: what the deployment says in its variable, else the user of
    the system that it runs as."""
    told = printable(mask_text(environ.get(DEPLOYED_BY, "").strip()))
    if told:
        return told[:MAX_ACTOR_CHARS]
    try:
        return f"system user {pwd.getpwuid(os.getuid()).pw_name}"[:MAX_ACTOR_CHARS]
    except KeyError:
        return f"system user {os.getuid()}"


# -- the handler


def handler_version(handler: Handler[Any]) -> str:
    """Return the handler's own version, else the commit of the repository that tracks its file."""
    if handler.version:
        return _bounded(str(handler.version))
    try:
        file = Path(inspect.getfile(type(handler))).resolve()
    except (OSError, TypeError):
        return ""
    return commit_of(file)


def commit_of(file: Path) -> str:
    """Return the commit that a tracked file is of, with ``-dirty`` where tracked files were changed
    since; empty where git or the repository is missing, or does not answer in time."""
    git = ["git", "-c", "core.fsmonitor=false", "-C", str(file.parent)]
    tracked = [*git, "ls-files", "--error-unmatch", "--", file.name]
    described = [*git, "describe", "--always", "--dirty", "--exclude=*"]
    if _output(tracked) is None:
        return ""
    return _output([*described, f"--abbrev={COMMIT_DIGITS}"]) or ""


def _output(command: Sequence[str]) -> str | None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            command,
            env=env | {"GIT_OPTIONAL_LOCKS": "0"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=SECONDS / 2,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode(errors="replace").strip() if done.returncode == 0 else None


# -- the program


async def program_version(
    command: Sequence[str] | None, *, env: Mapping[str, str], cwd: str | None
) -> str:
    """Return the first line that a command prints; empty, with a warning, where it fails or takes
    longer than two seconds."""
    if command is None:
        return ""
    try:
        async with asyncio.timeout(SECONDS):
            printed, code = await _run(command, env, cwd)
    except (OSError, ValueError) as exc:  # a TimeoutError is an OSError
        _unknown(command, str(exc) or f"it did not end within {SECONDS:g} s")
        return ""
    if code != 0:
        _unknown(command, f"exit code {code}: {printed}")
        return ""
    return printed


async def _run(
    command: Sequence[str], env: Mapping[str, str], cwd: str | None
) -> tuple[str, int | None]:
    process = await asyncio.create_subprocess_exec(
        *command,
        env=dict(env),
        cwd=cwd,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        kept = b""
        while part := await process.stdout.read(MAX_OUTPUT_BYTES):
            kept += part[: MAX_OUTPUT_BYTES - len(kept)]
        code = await process.wait()
    except BaseException:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        raise
    lines = kept.decode(errors="replace").split("\n")
    return _bounded(next((line for line in lines if line.strip()), "")), code


def _unknown(command: Sequence[str], detail: str) -> None:
    log.warning("program_version_unknown", command=command[0], detail=detail)


def _bounded(text: str) -> str:
    return printable(mask_text(text.strip()))[:MAX_CHARS]
