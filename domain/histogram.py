"""Durations counted in fixed buckets."""

from __future__ import annotations

from bisect import bisect_left

DOUBLING_SECONDS: tuple[float, ...] = tuple(round(0.001 * 2**power, 3) for power in range(20))
"""1 ms to about 524 s, one a doubling. Fixed for ever: so counts of many runs can be added."""


class Histogram:
    """Counts by upper bound, and the sum: both only grow. The last count takes all longer ones."""

    __slots__ = ("bounds_seconds", "counts", "sum_seconds")

    def __init__(self, bounds_seconds: tuple[float, ...] = DOUBLING_SECONDS) -> None:
        self.bounds_seconds = bounds_seconds
        self.counts = [0] * (len(bounds_seconds) + 1)
        self.sum_seconds = 0.0

    def observe(self, seconds: float, count: int = 1) -> None:
        """Count ``count`` durations of so many seconds."""
        self.counts[bisect_left(self.bounds_seconds, seconds)] += count
        self.sum_seconds += seconds * count
