"""From a spawner's answer to the agreed ``Exit``."""

from __future__ import annotations

import signal
from typing import Any

from domain.failure import FailureKind
from domain.task import Limits, Usage
from workers.executor.base import Exit, Launch
from workers.executor.frames import CANCELLED, OVER_LIMIT, PROTOCOL, TIMED_OUT, UNANSWERED

_NO_USAGE = Usage()


def exit_of_ended(launch: Launch, answer: tuple[Any, ...]) -> Exit:
    """The end of a process that ran."""
    _, _, _, _, reason, code, pid, out, err, out_size, err_size, cut, at, duration, *used = answer
    failure, detail = (None, "") if reason == code == 0 else _judge(launch, reason, code, used[3])
    return Exit(
        failure=failure,
        detail=detail,
        exit_code=code,
        pid=pid,
        stdout=out,
        stderr=err,
        stdout_size=out_size,
        stderr_size=err_size,
        truncated=cut,
        started_at=at,
        duration_seconds=duration,
        usage=Usage(user_cpu_seconds=used[0], system_cpu_seconds=used[1], max_rss_bytes=used[2]),
    )


def _judge(launch: Launch, reason: int, code: int, detail: str) -> tuple[FailureKind, str]:
    if reason == TIMED_OUT:
        return FailureKind.TIMEOUT, f"no end within {launch.timeout_seconds:g} s"
    if reason == OVER_LIMIT:
        over = detail or f"more than {launch.max_stdout_bytes} bytes of stdout"
        return FailureKind.OUTPUT_LIMIT, over
    if reason == PROTOCOL:
        return FailureKind.PROTOCOL, detail
    if reason == CANCELLED:
        return FailureKind.CANCELLED, "cancelled"
    when = " before it answered" if reason == UNANSWERED else ""
    if code < 0:
        return FailureKind.SIGNAL, f"killed by {signal_name(-code)}{when}"
    return FailureKind.EXIT, f"exit code {code}{when}"


def signal_name(number: int) -> str:
    """``SIGSEGV``, or ``signal 77`` for one without a name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def exit_without_run(
    failure: FailureKind, detail: str, now: float, spawn_errno: int | None = None
) -> Exit:
    """The end of a launch of which nothing is known but why; ``now`` is monotonic."""
    return Exit(
        failure=failure,
        detail=detail,
        exit_code=None,
        pid=None,
        stdout=b"",
        stderr=b"",
        stdout_size=0,
        stderr_size=0,
        truncated=False,
        started_at=now,
        duration_seconds=0.0,
        usage=_NO_USAGE,
        spawn_errno=spawn_errno,
    )


def limits_in_order(limits: Limits | None) -> tuple[int | None, ...] | None:
    """The limits as the spawner takes them; None when there is none."""
    if limits is None:
        return None
    values = (
        limits.cpu_seconds,
        limits.memory_bytes,
        limits.open_files,
        limits.file_bytes,
        limits.processes,
    )
    return None if values == (None,) * 5 else values
