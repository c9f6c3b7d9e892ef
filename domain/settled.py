"""Offsets above the commit that have their fate already: the next owner passes over them.

A commit says one number, and messages end in any order. What ended above the number is written
beside it, as ranges of offsets with both ends included; no message without a fate lies in one.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Sequence

Ranges = tuple[tuple[int, int], ...]
"""Ascending and apart: ``(first, last)``."""

MAX_CHARACTERS = 2500
"""Characters of the commit metadata (4095) that they may take, written as JSON."""
MOST_RANGES = MAX_CHARACTERS // 4
"""A range takes four characters at least."""


def ranges_of(gaps: Iterable[tuple[int, bool]]) -> Ranges:
    """Return the ranges of ``(offset, has_fate)`` in ascending order; an offset that is in neither
    was compacted away or is no record, and parts no range."""
    found: list[tuple[int, int]] = []
    is_open = False
    for offset, has_fate in gaps:
        if has_fate and is_open:
            found[-1] = found[-1][0], offset
        elif has_fate:
            found.append((offset, offset))
        is_open = has_fate
    return tuple(found)


def ranges_from(offset: int, ranges: Iterable[tuple[int, int]]) -> Ranges:
    """Return what of the ranges is not below an offset."""
    return tuple((max(first, offset), last) for first, last in ranges if last >= offset)


def to_steps(ranges: Ranges) -> list[int]:
    """As the commit metadata has them: the first offset, then how far each end lies from the one
    before. Short, since ends lie near one another."""
    steps, before = [], 0
    for first, last in ranges:
        steps += [first - before, last - first]
        before = last
    return steps


def from_steps(steps: object) -> Ranges:
    """Read them back. Raises ValueError for what ``to_steps`` cannot have written."""
    if not isinstance(steps, list) or len(steps) % 2 or len(steps) > 2 * MOST_RANGES:
        raise ValueError(f"settled: expected pairs of numbers, got {str(steps)[:80]}")
    found, before = [], -1
    for place in range(0, len(steps), 2):
        ahead, length = steps[place], steps[place + 1]
        if type(ahead) is not int or type(length) is not int or ahead < 0 or length < 0:
            raise ValueError(f"settled: expected offsets, got {str(steps)[:80]}")
        first = ahead + max(0, before)
        if first <= before or first + length >= 2**63:
            raise ValueError(f"settled: expected ascending offsets, got {str(steps)[:80]}")
        before = first + length
        found.append((first, before))
    return tuple(found)


def shortened(ranges: Ranges) -> Ranges:
    """As many of them, from the lowest on, as find room."""
    while not fits(ranges):
        ranges = ranges[: len(ranges) * 3 // 4]
    return ranges


def fits(ranges: Ranges) -> bool:
    """Whether they find room in the metadata of a commit."""
    if len(ranges) > MOST_RANGES:
        return False
    return len(json.dumps(to_steps(ranges), separators=(",", ":"))) <= MAX_CHARACTERS


class PassedOver:
    """Fates that an owner inherited; asked once for each record, in the order of offsets."""

    __slots__ = ("_left",)

    def __init__(self, ranges: Sequence[tuple[int, int]] = ()) -> None:
        self._left = deque(ranges)

    def has(self, offset: int) -> bool:
        """Whether a record has its fate from an earlier owner; forgets what lies below it."""
        while self._left and self._left[0][1] < offset:
            self._left.popleft()
        return bool(self._left) and self._left[0][0] <= offset

    def above(self, offset: int) -> Ranges:
        """Return what is left above an offset."""
        return ranges_from(offset + 1, self._left)
