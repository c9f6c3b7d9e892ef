"""From a spawner's answer to the agreed ``Exit``."""

from __future__ import annotations

import signal
from typing import Any

from domain.failure import FailureKind
from domain.printable import printable
from domain.task import Usage
from workers.executor.base import Exit, Launch
from workers.executor.frames import (
    CANCELLED,
    OVER_LIMIT,
    PROTOCOL,
    STALLED,
    TIMED_OUT,
    UNANSWERED,
)
from workers.executor.progress import MAX_NOTE_CHARACTERS
from workers.executor.task_cgroup import OOM_OF_TASK


def is_oom_known(answer: tuple[Any, ...]) -> bool:
    """Whether the kernel told exactly if it was killed for want of memory."""
    return answer[-2] is not None


def exit_of_ended(launch: Launch, answer: tuple[Any, ...]) -> Exit:
    """The end of a process that ran."""
    _, _, _, _, reason, code, pid, out, err, out_size, err_size, cut, at, *rest = answer
    duration, told, *used = rest
    progress, note, invalid = told or (None, "", 0)
    failure, detail = None, ""
    if not reason == code == 0:
        failure, detail = _judge(launch, reason, code, used[3], used[4])
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
        progress=progress,
        note=note and shown_note(note),
        progress_invalid=invalid,
    )


def _judge(
    launch: Launch, reason: int, code: int, oom: int | None, detail: str
) -> tuple[FailureKind, str]:
    if reason == TIMED_OUT:
        return FailureKind.TIMEOUT, f"no end within {launch.timeout_seconds:g} s"
    if reason == OVER_LIMIT:
        over = detail or f"more than {launch.max_stdout_bytes} bytes of stdout"
        return FailureKind.OUTPUT_LIMIT, over
    if reason == PROTOCOL:
        return FailureKind.PROTOCOL, detail
    if reason == STALLED:
        detail = f"no output and no progress for {launch.stall_timeout_seconds:g} s"
        return FailureKind.STALLED, detail
    if reason == CANCELLED:
        return FailureKind.CANCELLED, "cancelled"
    if code == -signal.SIGKILL and oom:
        return FailureKind.OOM, _oom_detail(launch, oom)
    when = " before it answered" if reason == UNANSWERED else ""
    if code < 0:
        return FailureKind.SIGNAL, f"killed by {signal_name(-code)}{when}"
    return FailureKind.EXIT, f"exit code {code}{when}"


def _oom_detail(launch: Launch, oom: int) -> str:
    limit = None if launch.limits is None else launch.limits.memory_bytes
    if oom == OOM_OF_TASK:
        bound = "" if limit is None else f", {limit:,} bytes"
        return f"killed by the kernel: it used more than its memory_bytes{bound}"
    return "killed by the kernel: the memory of a cgroup above the task's is used up"


def signal_name(number: int) -> str:
    """``SIGSEGV``, or ``signal 77`` for one without a name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def shown_note(text: str) -> str:
    """A program's note as it is shown: one line, without control characters, of bounded length."""
    return printable(text)[:MAX_NOTE_CHARACTERS]


def exit_without_run(
    failure: FailureKind,
    detail: str,
    now: float,
    spawn_errno: int | None = None,
    *,
    pid: int | None = None,
    started_at: float | None = None,
    progress: float | None = None,
    note: str = "",
    is_output_lost: bool = False,
) -> Exit:
    """The end of a launch of which little is known: why, and what was heard before; ``now`` is
    monotonic."""
    return Exit(
        failure=failure,
        detail=detail,
        exit_code=None,
        pid=pid,
        stdout=b"",
        stderr=b"",
        stdout_size=0,
        stderr_size=0,
        truncated=False,
        started_at=now if started_at is None else started_at,
        duration_seconds=0.0 if started_at is None else max(0.0, now - started_at),
        usage=None,
        progress=progress,
        note=note,
        is_output_lost=is_output_lost,
        spawn_errno=spawn_errno,
    )
