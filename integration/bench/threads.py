"""CPU of one process by thread, as the kernel accounts for it in nanoseconds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

NANOSECONDS = 1e9

Threads = Mapping[tuple[int, str], float]
"""Seconds on a core by thread id and name."""


def thread_seconds(pid: int) -> Threads:
    """Seconds that each live thread has run; the main thread is called ``loop``."""
    found = {}
    for folder in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):  # it ended meanwhile
            name = (folder / "comm").read_text().strip()
            ran = int((folder / "schedstat").read_text().split()[0])
            is_main = folder.name == str(pid)
            found[int(folder.name), "loop" if is_main else name] = ran / NANOSECONDS
    return found


def spent_by_name(before: Threads, after: Threads) -> dict[str, float]:
    """Seconds between two readings, threads of one name together, the busiest first."""
    spent: defaultdict[str, float] = defaultdict(float)
    for thread, seconds in after.items():
        spent[thread[1]] += seconds - before.get(thread, 0.0)
    return dict(sorted(spent.items(), key=lambda item: -item[1]))
