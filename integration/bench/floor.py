"""Compiles and runs ``floor.c``: what spawning costs this machine when nothing else is done."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).with_name("floor.c")
COMPILE_SECONDS = 60
RUN_SECONDS = 300


class FloorFailed(RuntimeError):
    """The C program could not be compiled or run; the text says what it printed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """One round: tasks a second, and the CPU of the program itself by wait4, in ms a task."""

    per_second: float
    program_cpu_ms: float


def compile_floor(folder: Path) -> Path | None:
    """The compiled program in ``folder``; None without gcc. Raises FloorFailed."""
    compiler = shutil.which("gcc")
    if compiler is None:
        return None
    program = folder / "floor"
    argv = [compiler, "-O2", "-pthread", str(SOURCE), "-o", str(program)]
    _run(argv, COMPILE_SECONDS)
    return program


def run_floor(program: Path, binary: str, tasks: int, slots: int) -> Floor:
    """One round of ``tasks`` runs of ``binary``, ``slots`` at once. Raises FloorFailed."""
    said = json.loads(_run([str(program), binary, str(tasks), str(slots)], RUN_SECONDS))
    if said["failed"]:
        raise FloorFailed(f"{binary}: {said['failed']} of {tasks} runs failed")
    return Floor(
        per_second=tasks / said["seconds"],
        program_cpu_ms=said["program_cpu_seconds"] * 1000 / tasks,
    )


def _run(argv: list[str], timeout_seconds: int) -> str:
    done = subprocess.run(
        argv, capture_output=True, text=True, timeout=timeout_seconds, check=False
    )
    if done.returncode != 0:
        raise FloorFailed(f"{argv[0]}: exit code {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout
