"""What a program writes, told while it runs, and the signs of life of its process group. Standard
library only: the spawner imports this."""

from __future__ import annotations

import os
from collections.abc import Container, Iterator

from workers.executor.capture import EndsCapture, HeadCapture

STDOUT, STDERR = 0, 1
"""Numbers of the streams in a frame."""
SNAPSHOT_BYTES = 65_536
"""How much of what was written before a follower is told to it, of each stream."""
BYTES_A_SECOND = 65_536
"""How much of one program is told in a second; of more, the newest."""

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

Capture = HeadCapture | EndsCapture
Piece = tuple[int, int, bytes]
"""A stream, the offset of the first byte, and the bytes."""
Signs = tuple[float, int, int]
"""Seconds of CPU, resident bytes, and number of processes."""


class LiveOutput:
    """How far the output of one program was told; one for all who follow it."""

    __slots__ = ("_budget", "_budget_at", "_captures", "_told", "signs_at")

    def __init__(self, output: Capture, errors: Capture, now: float) -> None:
        self._captures = (output, errors)
        self._told = [output.tail_end, errors.tail_end]
        self._budget, self._budget_at = float(BYTES_A_SECOND), now
        self.signs_at = now
        """When signs of life are to be told next."""

    def snapshot(self) -> Iterator[Piece]:
        """The end of what was written so far, of each stream, even if it is empty."""
        for stream, capture in enumerate(self._captures):
            data = capture.tail(SNAPSHOT_BYTES)
            yield stream, capture.tail_end - len(data), data

    def news(self, now: float) -> Iterator[Piece]:
        """What was written since, as far as the rate allows: of more, the newest; of each stream
        half of it, or what the other one leaves."""
        gained = (now - self._budget_at) * BYTES_A_SECOND
        self._budget, self._budget_at = min(self._budget + gained, BYTES_A_SECOND), now
        budget = int(self._budget)
        unsaid = [at.tail_end - told for at, told in zip(self._captures, self._told, strict=True)]
        for stream, capture in enumerate(self._captures):
            end = capture.tail_end
            share = max(budget // 2, budget - unsaid[1 - stream])
            data = capture.tail(min(unsaid[stream], share))
            if data:
                self._budget -= len(data)
                self._told[stream] = end
                yield stream, end - len(data), data


def signs_of_groups(groups: Container[int], *, nested: bool = False) -> dict[int, Signs]:
    """Signs of life of each process group, by its number; one without a process is left out.

    ``nested`` says that /proc shows the numbers of an outer namespace; ``groups`` are such then.
    """
    found: dict[int, Signs] = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            # Asking for the group is far cheaper than reading a file of each process there is.
            if not nested and os.getpgid(int(name)) not in groups:
                continue
            with open(f"/proc/{name}/stat", "rb") as file:
                group, seconds, size = _read_stat(file.read())
        except OSError:  # It is gone, or hidden from us.
            continue
        if group in groups:
            before = found.get(group, (0.0, 0, 0))
            found[group] = before[0] + seconds, before[1] + size, before[2] + 1
    return found


def _read_stat(text: bytes) -> tuple[int, float, int]:
    """Group, seconds of CPU with those of children waited for, and resident bytes, of a process:
    proc_pid_stat(5)."""
    # Behind the name, which may hold spaces and parentheses.
    values = text[text.rindex(b")") + 2 :].split()
    seconds = sum(map(int, values[11:15])) / _TICKS
    return int(values[2]), seconds, int(values[21]) * _PAGE_BYTES
