"""Comparison of two versions in words: is the newer one slower, and does it fail more?"""

from __future__ import annotations

from dataclasses import dataclass

LEAST_TASKS = 30
"""Fewer tasks than these are judged of neither."""
SAME_SHARE = 0.1
"""Difference of durations within which they are called equal: a bucket's width."""
SAME_FAILURES = 0.005
"""Difference of failure rates within which they are called equal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionFigures:
    """Tasks of one version; None is unknown."""

    version: str
    count: int
    failures: int
    p50_ms: float | None
    p95_ms: float | None

    @property
    def failure_rate(self) -> float | None:
        """Share of attempts that failed; None: none was made."""
        return self.failures / self.count if self.count else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Judgement of the newer version: ``status`` is failed, completed or waiting (not judged)."""

    status: str
    words: str


def verdict(old: VersionFigures, new: VersionFigures) -> Verdict:
    """Compare the newer version with the older one."""
    counts = f"{new.count:,} against {old.count:,} tasks"
    if min(old.count, new.count) < LEAST_TASKS:
        return Verdict(status="waiting", words=f"too few tasks to judge: {counts}")
    told, is_worse = [], False
    for name, before, after in (
        ("p50", old.p50_ms, new.p50_ms),
        ("p95", old.p95_ms, new.p95_ms),
    ):
        if before and after is not None:
            change = after / before - 1
            is_worse |= change > SAME_SHARE
            told.append(f"{name} {_word(change)}")
    rates = old.failure_rate or 0.0, new.failure_rate or 0.0
    is_worse |= rates[1] - rates[0] > SAME_FAILURES
    same = abs(rates[1] - rates[0]) <= SAME_FAILURES
    compared = "as before" if same else f"against {rates[0]:.1%}"
    told.append(f"{rates[1]:.1%} fail, {compared}")
    return Verdict(
        status="failed" if is_worse else "completed", words=f"{', '.join(told)}; {counts}"
    )


def _word(change: float) -> str:
    if abs(change) <= SAME_SHARE:
        return "as before"
    return f"{abs(change):.0%} {'slower' if change > 0 else 'faster'}"
