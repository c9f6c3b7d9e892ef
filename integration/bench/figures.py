"""Figures of several rounds made one: medians, ratios, percentiles; pure."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence


def percentile(values: Sequence[float], percent: float) -> float:
    """The value that ``percent`` % of the values do not exceed. Raises ValueError when empty."""
    if not values:
        raise ValueError("percentile: no values")
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def median(rounds: Sequence[object], figure: str) -> float:
    """The median of one figure over all rounds."""
    return float(statistics.median(getattr(one, figure) for one in rounds))


def ratio(ours: Sequence[object], theirs: Sequence[object], figure: str) -> float:
    """Our figure over theirs: the median of each round's own ratio."""
    pairs = zip(ours, theirs, strict=True)
    return float(statistics.median(getattr(a, figure) / getattr(b, figure) for a, b in pairs))


def by_thread(rounds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The median of each thread's CPU over the rounds, the busiest first."""
    names = {name for one in rounds for name in one}
    medians = {name: statistics.median(one.get(name, 0.0) for one in rounds) for name in names}
    return dict(sorted(medians.items(), key=lambda item: (-item[1], item[0])))
