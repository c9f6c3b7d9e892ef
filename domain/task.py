"""What the handler asks to be run, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
