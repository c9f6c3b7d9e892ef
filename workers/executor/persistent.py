"""The worker's side of ``executor.mode: persistent``: the program, and requests as lines."""

from __future__ import annotations

import base64
from typing import Any

from domain.process_end import ProcessEnd
from domain.task import Limits
from domain.value import value
from workers.executor.base import Launch
from workers.executor.bounding import ProcessLimits, TreeBounds
from workers.executor.frames import ASK, PERSIST
from workers.executor.persistent_processes import MAX_RESTART_SECONDS, MAX_STARTS, UNREAD_SECONDS


@value(frozen=True, slots=True, kw_only=True)
class Persistent:
    """The program of the persistent processes, and how they are kept.

    ``max_requests``: how many one answers before it is replaced; None: as many as come.
    ``ready_timeout_seconds``: how long one may take to its line ``{"ready": true}``; None: it is
    not awaited.
    """

    argv: tuple[str, ...]
    env: dict[str, str]
    cwd: str | None
    limits: Limits | None
    kill_grace_seconds: float
    max_requests: int | None
    ready_timeout_seconds: float | None

    def message(self, limits: ProcessLimits | None, bounds: TreeBounds | None) -> tuple[Any, ...]:
        """What a spawner is told before its first request; the limits as ``Bounding`` has them."""
        program = (
            self.argv,
            self.env,
            self.cwd,
            limits,
            bounds,
            self.kill_grace_seconds,
            self.max_requests or 0,
            self.ready_timeout_seconds,
        )
        return PERSIST, program

    @property
    def longest_wait_seconds(self) -> float:
        """How long a request may wait for a process until it is given up."""
        start = (self.ready_timeout_seconds or 0.0) + self.kill_grace_seconds
        return MAX_STARTS * (start + MAX_RESTART_SECONDS + UNREAD_SECONDS)


@value(frozen=True, slots=True, kw_only=True)
class EndedProcess:
    """End of a persistent process; ``pid`` is that of the host, None: unknown."""

    slot: int
    pid: int | None
    cause: ProcessEnd
    detail: str
    requests: int
    seconds: float

    @classmethod
    def of(cls, answer: tuple[Any, ...]) -> EndedProcess:
        """As a spawner tells it."""
        _, slot, pid, cause, detail, requests, seconds = answer
        return cls(
            slot=slot,
            pid=pid,
            cause=ProcessEnd(cause),
            detail=detail,
            requests=requests,
            seconds=seconds,
        )


def asked(number: int, launch: Launch) -> tuple[Any, ...]:
    """A launch as a request of that number. Raises ValueError for limits of its own, which come
    too late for the process, and for text that is not Unicode."""
    import orjson  # Here: an interpreter without it can run the executor in mode spawn.

    if launch.limits is not None:
        raise ValueError(
            "limits: expected none in mode persistent (executor.limits are those of the process), "
            "or a binary of the task's own, which is spawned"
        )
    content: dict[str, Any] = {"id": str(number), "args": launch.argv}
    try:
        content["stdin"] = launch.stdin.decode()
    except UnicodeDecodeError:
        content["stdin_base64"] = base64.b64encode(launch.stdin).decode()
    content["env"] = launch.env
    try:
        line = orjson.dumps(content, option=orjson.OPT_APPEND_NEWLINE)
    except orjson.JSONEncodeError as exc:
        raise ValueError(f"args, env: expected UTF-8 in a request to a process: {exc}") from exc
    return (
        ASK,
        number,
        line,
        launch.timeout_seconds,
        launch.kill_grace_seconds,
        launch.max_stdout_bytes,
        launch.max_stderr_bytes,
        launch.stall_timeout_seconds,
    )
