"""Results of tasks that ended well, as a handler gets them."""

from __future__ import annotations

from workers.handler import Task, TaskResult, Usage


def ended_well(message: object, stdout: bytes) -> TaskResult:
    """The result of a task of this message that printed ``stdout``."""
    return TaskResult(
        task=Task(metadata=message),
        exit_code=0,
        stdout=stdout,
        stderr=b"",
        started_at=0.0,
        duration_seconds=0.1,
        pid=1,
        usage=Usage(),
        truncated=False,
        attempt=1,
    )
