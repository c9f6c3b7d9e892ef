"""Statistics of one lane: its work so far, and its state. Counters only grow within a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from domain.breaker import Circuit

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


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkStatistics:
    """A snapshot of one lane. Times are UTC epoch seconds; durations are of whole batches.

    ``errors`` counts failed attempts by class: transient, permanent, config, unknown.
    ``reconnects`` counts connections given up because nothing was stored through them for a minute.
    ``next_probe_seconds`` is how long an open breaker rests yet. Percentiles and last values are
    None while unknown.
    """

    sink: str
    kind: str
    is_opened: bool
    is_paused: bool
    delivered: int
    skipped: int
    refused: int
    errors: dict[str, int]
    retries: int
    reconnects: int
    last_delivery_at: float | None
    last_duration_seconds: float | None
    latency_counts: tuple[int, ...]
    latency_sum_seconds: float
    p50_seconds: float | None
    p95_seconds: float | None
    p99_seconds: float | None
    queue_entries: int
    queue_bytes: int
    circuit: Circuit
    next_probe_seconds: float | None
    last_error: str | None
    last_error_class: str | None
    last_error_at: float | None
    waiting_for: str | None
    """Cause that the lane waits for now (the error that keeps it from delivering), or None."""
