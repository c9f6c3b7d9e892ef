"""What the gap strip is drawn from."""

from __future__ import annotations

from domain.fate import Fate
from domain.offsets import OffsetTracker, stretches


def tracker() -> OffsetTracker:
    found = OffsetTracker()
    for offset in range(10, 18):
        found.add(offset)
    for offset in (10, 12, 13, 15):
        found.settle(offset, Fate.DELIVERED)
    return found


def test_neighbours_alike_are_counted_together() -> None:
    assert stretches(tracker().gaps(), 64) == [
        (1, False),
        (2, True),
        (1, False),
        (1, True),
        (2, False),
    ]


def test_the_last_stretch_takes_in_the_rest() -> None:
    assert stretches(tracker().gaps(), 2) == [(1, False), (6, False)]
    assert stretches([], 2) == []
