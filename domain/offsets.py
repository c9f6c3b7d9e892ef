"""Offsets of one partition of one epoch that have a fate, and how far a commit may go."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator

from domain.fate import Fate


class OffsetTracker:
    """Tracks delivered offsets, not ranges: gaps in Kafka's offsets are normal (compaction).

    Law 1: the watermark never falls and never exceeds the lowest offset without a fate.
    """

    __slots__ = ("_fates", "_last", "_open", "_watermark")

    def __init__(self) -> None:
        self._fates: OrderedDict[int, Fate | None] = OrderedDict()
        self._last = -1
        self._open = 0
        self._watermark: int | None = None

    def add(self, offset: int) -> None:
        """Take in the next offset handed over. Raises ValueError unless it is above the last
        one."""
        if offset <= self._last:
            raise ValueError(f"offset {offset} came after offset {self._last}")
        self._last = offset
        self._fates[offset] = None
        self._open += 1

    def settle(self, offset: int, fate: Fate) -> None:
        """Give an offset its fate. Raises ValueError when it has one or was never added (law 2)."""
        if self._fates.get(offset, fate) is not None:
            raise ValueError(f"offset {offset} has a fate already or was never added")
        self._fates[offset] = fate
        self._open -= 1
        self._advance()

    def _advance(self) -> None:
        while self._fates:
            offset, fate = next(iter(self._fates.items()))
            if fate is None:
                return
            del self._fates[offset]
            self._watermark = offset + 1

    @property
    def watermark(self) -> int | None:
        """Next offset to commit, or None while nothing has passed in this epoch."""
        return self._watermark

    @property
    def last(self) -> int:
        """Highest offset handed over; -1: none."""
        return self._last

    @property
    def blocker(self) -> int | None:
        """Oldest offset without a fate: what holds the commit back."""
        return next(iter(self._fates), None)

    @property
    def open_count(self) -> int:
        """Number of offsets without a fate."""
        return self._open

    def gaps(self) -> Iterator[tuple[int, bool]]:
        """``(offset, has_fate)`` for each offset above the watermark, in order (the gap strip)."""
        return ((offset, fate is not None) for offset, fate in self._fates.items())


def stretches(gaps: Iterable[tuple[int, bool]], most: int) -> list[tuple[int, bool]]:
    """Neighbours alike counted together, as ``(count, has_fate)``; the last takes in the rest
    once there are ``most``, and then counts as without fate unless all of it has one."""
    found: list[tuple[int, bool]] = []
    for _, has_fate in gaps:
        if found and (found[-1][1] is has_fate or len(found) == most):
            count, known = found[-1]
            found[-1] = count + 1, known and has_fate
        else:
            found.append((1, has_fate))
    return found
