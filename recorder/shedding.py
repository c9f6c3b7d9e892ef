"""Order in which events are given up when there is no room left, and the account of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from domain.events import KINDS, RecorderShed, Shed
from recorder.failures.grouping import Shed as FailuresShed
from recorder.message_row import MESSAGE, kinds_in
from recorder.rollups.sums import Sums
from recorder.rows import Row

NEVER_SHED = frozenset(name for name, kind in KINDS.items() if kind.shed is Shed.NEVER)
SUCCESSES = frozenset({MESSAGE, *(name for name, kind in KINDS.items() if kind.shed is Shed.FIRST)})
MAX_RANGES = 32
"""Ranges that one account names; neighbours are joined before there are more."""
_COMPACT_AT = 4096


def is_no_success(row: Row) -> bool:
    """Whether a row tells of something else than work that went well: that is shed first."""
    return row["kind"] not in SUCCESSES


def is_never_shed(row: Row) -> bool:
    """Whether a row waits for ever rather than being shed."""
    return row["kind"] in NEVER_SHED


SHED_IN_TURN: tuple[Callable[[Row], bool], ...] = (is_no_success, is_never_shed)
"""Rows that are kept, when room is made: first successes go, then all but what never does."""


class ShedAccount:
    """Events that could not be kept, since they were told last: how many of each kind, and where
    in the run's ``seq``."""

    def __init__(self) -> None:
        self.total = 0
        """All there ever were, but for those whose number was known before (``is_new``)."""
        self._kinds: Counter[str] = Counter()
        self._ranges: list[list[int]] = []
        self._sums = Sums()
        self._groups = FailuresShed()

    def add(self, rows: Iterable[Row]) -> None:
        """Count rows that had their ``seq``."""
        for row in rows:
            kinds = Counter(kinds_in(row))
            self.add_range(kinds, row["seq"] - kinds.total() + 1)
            self._sums.add_rows((row,))
            self._groups.add(row)

    def count(self, sums: Sums) -> None:
        """Count events that never were rows in the rollups."""
        self._sums.add_sums(sums)

    def add_range(self, kinds: Mapping[str, int], first: int, *, is_new: bool = True) -> None:
        """Count events whose numbers, from ``first`` on, no row will ever have."""
        count = sum(kinds.values())
        self.total += count * is_new
        self._kinds.update(kinds)
        if self._ranges and self._ranges[-1][1] + 1 == first:
            self._ranges[-1][1] += count
            self._ranges[-1][2] += count
        else:
            self._ranges.append([first, first + count - 1, count])
        if len(self._ranges) > _COMPACT_AT:
            self._ranges = joined(self._ranges, MAX_RANGES)

    def settle(self, at: float) -> RecorderShed | None:
        """Return the account since the last one; None when nothing was shed. ``at``: epoch
        seconds."""
        if not self._kinds:
            return None
        ranges = joined(self._ranges, MAX_RANGES)
        event = RecorderShed(
            at=at,
            shed=dict(self._kinds),
            first_seq=ranges[0][0],
            last_seq=ranges[-1][1],
            ranges=ranges,
            of_run="",
            sums=self._sums.carried(),
            groups=self._groups.carried(),
        )
        self._kinds, self._ranges, self._sums = Counter(), [], Sums()
        self._groups = FailuresShed()
        return event


def joined(ranges: Iterable[list[int]], most: int) -> list[list[int]]:
    """Return the ranges ``[first, last, count]`` in order, those with the smallest holes between
    them joined until there are no more than ``most``; each count stays exact."""
    found: list[list[int]] = []
    for first, last, count in sorted(ranges):
        if found and first <= found[-1][1] + 1:
            found[-1] = [found[-1][0], max(last, found[-1][1]), found[-1][2] + count]
        else:
            found.append([first, last, count])
    if len(found) <= most:
        return found
    holes = sorted(range(1, len(found)), key=lambda at: found[at][0] - found[at - 1][1])
    kept_apart = set(holes[len(found) - most :])
    result = [found[0]]
    for at in range(1, len(found)):
        if at in kept_apart:
            result.append(found[at])
        else:
            first, _, count = result[-1]
            result[-1] = [first, found[at][1], count + found[at][2]]
    return result
