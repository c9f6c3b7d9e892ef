"""CPU seconds of live process trees, without the children they waited for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import psutil

Usage = Mapping[tuple[int, float], float]
"""CPU seconds by process (pid and start time, so that a reused pid is another process)."""


def tree_usage(pid: int) -> Usage:
    """User and system seconds of a process and of each live descendant."""
    try:
        root = psutil.Process(pid)
        processes = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return {}
    return dict(_figures(processes))


def spent_seconds(before: Usage, after: Usage) -> float:
    """What the processes alive at both moments spent between them.

    The programs of the tasks live too shortly to stand in both: they are not counted.
    """
    return sum(after[key] - before[key] for key in before.keys() & after.keys())


def _figures(processes: Iterable[psutil.Process]) -> Iterable[tuple[tuple[int, float], float]]:
    for process in processes:
        try:
            times = process.cpu_times()
            yield (process.pid, process.create_time()), times.user + times.system
        except psutil.NoSuchProcess:
            continue
