"""Results of tasks, as a handler gets them."""

from __future__ import annotations

from workers.handler import Task, TaskResult, Usage


def ended_well(message: object, stdout: bytes, stderr: bytes = b"") -> TaskResult:
    """The result of a task of this message that printed these and exited with 0."""
    return TaskResult(
        task=Task(metadata=message),
        exit_code=0,
        stdout=stdout,
        stderr=stderr,
        started_at=0.0,
        duration_seconds=0.1,
        pid=1,
        usage=Usage(),
        truncated=False,
        attempt=1,
    )
