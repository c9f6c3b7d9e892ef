"""Durations counted in buckets whose bounds grow by the square root of two, and their quantiles.

A quantile is interpolated within its bucket, evenly on the scale of the logarithm, so what is
returned is wrong by less than the width of a bucket: a factor of 1.42 at the worst, in practice a
few percent. Below the first bound and above the last one there is no such promise.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

GROWTH = 2**0.5
BOUNDS_US: tuple[int, ...] = tuple(round(1000 * GROWTH**power) for power in range(55))
"""Upper bounds in microseconds: 1 ms to 37 hours. Fixed for ever: so counts can be added."""
BUCKETS = len(BOUNDS_US) + 1
"""The last one takes all that is longer."""


def bucket_of(microseconds: int) -> int:
    """Return the number of the bucket of a duration."""
    return bisect_left(BOUNDS_US, microseconds)


def quantile_ms(counts: Sequence[int], share: float) -> float | None:
    """Return the duration in ms below which this share (0 to 1) of what is counted lies; None where
    nothing is. ``counts`` may end early: what lacks is 0."""
    total = sum(counts)
    if total == 0:
        return None
    wanted, below = share * total, 0
    for number, count in enumerate(counts):
        if count and below + count >= wanted:
            return _within(number, (wanted - below) / count)
        below += count
    return BOUNDS_US[-1] / 1000.0


def _within(number: int, share: float) -> float:
    if number >= len(BOUNDS_US):
        return BOUNDS_US[-1] / 1000.0
    upper = BOUNDS_US[number] / 1000.0
    if number == 0:
        return float(upper * share)
    lower = BOUNDS_US[number - 1] / 1000.0
    return float(lower * (upper / lower) ** share)
