"""A function in place of the program: an executor that starts no process."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from domain.failure import FailureKind
from domain.task import Precomputed, Task, Usage
from workers.executor.base import Exit, Launch, OnChunk, Watcher

Program = Callable[[Task], str | bytes | int | Precomputed | FailureKind]
"""Stand-in for the program.

It gets the task as the program would see it: ``args``, ``stdin``, the whole ``env``, ``binary`` and
``id``; labels and metadata stay with the handler. It returns what is printed, an exit code, both as
``Precomputed``, or a kind of failure such as ``FailureKind.TIMEOUT``.
"""


class FunctionExecutor:
    """Executor whose programs are one function, called on the loop.

    ``error`` is what the function raised; the worker ends by it.
    """

    isolation = launcher = cgroups = "none"

    def __init__(self, program: Program) -> None:
        self._program = program
        self.error: Exception | None = None

    async def start(self) -> None:
        """Start nothing."""

    async def run(self, launch: Launch, watcher: Watcher) -> Exit | None:
        """Return what the function makes of the task. Raises what it raises."""
        began = time.monotonic()
        watcher.started(0, began, None)
        binary, *args = ("", *launch.argv) if launch.is_request else launch.argv
        task = Task(
            args=args, stdin=launch.stdin, env=launch.env, binary=binary or None, id=launch.task_id
        )
        try:
            return _exit(self._program(task), began)
        except Exception as exc:
            self.error = exc
            raise

    def cancel(self, task_id: str) -> bool:
        """Return False: nothing runs between two turns of the loop."""
        return False

    def follow(self, task_id: str, on_chunk: OnChunk) -> bool:
        """Return False: nothing runs between two turns of the loop."""
        return False

    def unfollow(self, task_id: str, on_chunk: OnChunk) -> None:
        """Do nothing: nothing is followed."""

    async def recall(self) -> None:
        """Do nothing: nothing waits for a slot."""

    async def close(self) -> None:
        """End nothing."""


def _exit(given: Any, began: float) -> Exit:
    """Return the end of a program. Raises TypeError for what a program cannot do."""
    failure: FailureKind | None = None
    done = Precomputed()
    if isinstance(given, FailureKind):
        failure = given
    elif isinstance(given, str | bytes):
        done = Precomputed(stdout=given.encode() if isinstance(given, str) else given)
    elif isinstance(given, int) and not isinstance(given, bool):
        done = Precomputed(exit_code=given)
    elif isinstance(given, Precomputed):
        done = given
    else:
        expected = "text, bytes, an exit code, Precomputed or FailureKind"
        raise TypeError(f"program: expected {expected}, got {type(given).__name__}")
    detail = "" if failure is None else f"{failure.value} (given by the test)"
    if failure is None and done.exit_code != 0:
        failure, detail = FailureKind.EXIT, f"exit code {done.exit_code}"
    return Exit(
        failure=failure,
        detail=detail,
        exit_code=done.exit_code if failure in (None, FailureKind.EXIT) else None,
        pid=None,
        stdout=done.stdout,
        stderr=done.stderr,
        stdout_size=len(done.stdout),
        stderr_size=len(done.stderr),
        truncated=False,
        started_at=began,
        duration_seconds=time.monotonic() - began,
        usage=Usage(),
    )
