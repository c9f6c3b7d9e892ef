"""What the handler asks to be run, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Resource limits of one process; None leaves a resource unlimited."""

    cpu_seconds: int | None = None
    memory_bytes: int | None = None
    open_files: int | None = None
    file_bytes: int | None = None
    processes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Precomputed:
    """A result that needs no process: the task takes no slot and starts nothing."""

    stdout: bytes = b""
    stderr: bytes = b""
    exit_code: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One run of the program.

    ``id`` and ``parent_id`` are the framework's (``partition:offset:n``); what a handler puts there
    is overwritten. ``source_offsets`` names the messages of the same ``arrange`` call that the task
    serves; it may be left out when the call had one message. ``args`` are passed without a shell.
    """

    args: Sequence[str] = ()
    stdin: bytes = b""
    env: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    metadata: Any = None
    binary: str | None = None
    timeout_seconds: float | None = None
    limits: Limits | None = None
    priority: float | None = None
    source_offsets: Sequence[int] = ()
    precomputed: Precomputed | None = None
    id: str = ""
    parent_id: str = ""


def check_task(task: Any) -> None:
    """Raises TypeError or ValueError naming the field that no executor could take.

    Handlers are not type-checked at run time, and a task that breaks the executor would break it
    again in the next worker.
    """
    if not isinstance(task, Task):
        raise TypeError(f"expected tasks, got {type(task).__name__}")
    args: Any = task.args
    is_list = isinstance(args, Sequence) and not isinstance(args, str)
    if not is_list or not all(isinstance(arg, str) for arg in args):
        raise TypeError(f"args: expected a list of texts, got {args!r}")
    if not isinstance(task.stdin, bytes):
        raise TypeError(f"stdin: expected bytes, got {type(task.stdin).__name__}")
    for name in ("env", "labels"):
        if not isinstance(getattr(task, name), Mapping):
            raise TypeError(f"{name}: expected a mapping, got {type(getattr(task, name)).__name__}")
    seconds = task.timeout_seconds
    if seconds is not None and not _is_positive(seconds):
        raise ValueError(f"timeout_seconds: expected more than 0 or None, got {seconds!r}")
    if task.limits is not None and not isinstance(task.limits, Limits):
        raise TypeError(f"limits: expected Limits, got {type(task.limits).__name__}")
    if task.precomputed is not None:
        _check_precomputed(task.precomputed)


def _check_precomputed(given: Any) -> None:
    if not isinstance(given, Precomputed):
        raise TypeError(f"precomputed: expected Precomputed, got {type(given).__name__}")
    for name in ("stdout", "stderr"):
        if not isinstance(getattr(given, name), bytes):
            got = type(getattr(given, name)).__name__
            raise TypeError(f"precomputed.{name}: expected bytes, got {got}")


def _is_positive(seconds: Any) -> bool:
    return isinstance(seconds, int | float) and isfinite(seconds) and seconds > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """The kernel's account of one process and the children it waited for."""

    user_cpu_seconds: float = 0.0
    system_cpu_seconds: float = 0.0
    max_rss_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskResult:
    """What one attempt of a task printed and how it ended. ``started_at`` is UTC epoch seconds.

    ``truncated`` says that stderr had its middle cut out. ``pid`` is None for a precomputed task.
    """

    task: Task
    exit_code: int
    stdout: bytes
    stderr: bytes
    started_at: float
    duration_seconds: float
    pid: int | None
    usage: Usage
    truncated: bool
    attempt: int

    @property
    def stdout_text(self) -> str:
        """stdout as UTF-8, undecodable bytes replaced."""
        return self.stdout.decode("utf-8", "replace")

    @property
    def stderr_text(self) -> str:
        """stderr as UTF-8, undecodable bytes replaced."""
        return self.stderr.decode("utf-8", "replace")
