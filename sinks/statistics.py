"""Latency of deliveries: the buckets it is counted in, and percentiles of them."""

from __future__ import annotations

from collections.abc import Sequence

BUCKET_BOUNDS_SECONDS: tuple[float, ...] = tuple(0.0001 * 2 ** (step / 2) for step in range(42))
"""Upper bounds of the latency buckets: 0.1 ms to 148 s, two a doubling. Fixed for ever, so that the
counts of many workers can be added; percentiles are computed from counts and never merged."""


def percentile_seconds(counts: Sequence[int], quantile: float) -> float | None:
    """Return the upper bound of the bucket that holds the quantile; None when nothing was
    counted."""
    total = sum(counts)
    if total == 0:
        return None
    rank = quantile * total
    seen = 0
    for index, count in enumerate(counts):
        seen += count
        if seen >= rank and count:
            return BUCKET_BOUNDS_SECONDS[min(index, len(BUCKET_BOUNDS_SECONDS) - 1)]
    return BUCKET_BOUNDS_SECONDS[-1]


def in_ms(seconds: float | None) -> float | None:
    """Return seconds as milliseconds; None stays unknown."""
    return None if seconds is None else seconds * 1000.0
