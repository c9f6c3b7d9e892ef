"""CPU seconds of live process trees: their own, and those of the programs that they ran."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import psutil


class CpuSeconds(NamedTuple):
    """User and system seconds: of a process itself, and of the children it has waited for."""

    own: float
    reaped: float


Usage = Mapping[tuple[int, float], CpuSeconds]
"""By process (pid and start time, so that a reused pid is another process)."""


def tree_usage(pid: int) -> Usage:
    """Seconds of a process and of each live descendant; empty when there is no such process."""
    try:
        root = psutil.Process(pid)
        processes = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return {}
    return dict(_figures(processes))


def spent_seconds(before: Usage, after: Usage) -> CpuSeconds:
    """Seconds that the processes alive at both moments spent between them.

    A task's program lives too shortly to stand in both: it counts as reaped, by whoever ran it.
    """
    alive = before.keys() & after.keys()
    return CpuSeconds(
        own=sum(after[key].own - before[key].own for key in alive),
        reaped=sum(after[key].reaped - before[key].reaped for key in alive),
    )


def stolen_seconds() -> float:
    """Seconds since boot for which the host ran something else on this machine's cores."""
    return float(getattr(psutil.cpu_times(), "steal", 0.0))


def _figures(
    processes: Iterable[psutil.Process],
) -> Iterator[tuple[tuple[int, float], CpuSeconds]]:
    for process in processes:
        try:
            times, key = process.cpu_times(), (process.pid, process.create_time())
        except psutil.NoSuchProcess:
            continue
        yield (
            key,
            CpuSeconds(
                own=times.user + times.system,
                reaped=times.children_user + times.children_system,
            ),
        )
