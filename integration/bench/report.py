"""What the bench says: medians, shares, targets; pure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from integration.bench.floor import Floor
from integration.bench.rounds import Throughput

MAX_CPU_MS = 0.40
MIN_FLOOR_SHARE = 0.45
MAX_P50_MS = 10.0
MAX_P99_MS = 25.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """All rounds of one run; ``floors`` is empty without gcc. Load averages are of 1 minute."""

    floors: Sequence[Floor]
    off: Sequence[Throughput]
    on: Sequence[Throughput]
    latencies_ms: Sequence[float]
    load_before: float
    load_after: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One figure against its target; ``is_met`` is None where it could not be measured."""

    name: str
    wanted: str
    measured: str
    is_met: bool | None


def percentile(values: Sequence[float], percent: float) -> float:
    """The value that ``percent`` % of the values do not exceed. Raises ValueError when empty."""
    if not values:
        raise ValueError("percentile: no values")
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def median(rounds: Sequence[Throughput] | Sequence[Floor], figure: str) -> float:
    """The median of one figure over all rounds."""
    return float(statistics.median(getattr(one, figure) for one in rounds))


def floor_share(measured: Measured) -> float | None:
    """The worker with its recorder as a share of the floor; None without a floor."""
    if not measured.floors:
        return None
    return median(measured.on, "per_second") / median(measured.floors, "per_second")


def targets(measured: Measured) -> list[Target]:
    """Every target, met or not."""
    cpu_ms, share = median(measured.on, "worker_cpu_ms"), floor_share(measured)
    p50 = percentile(measured.latencies_ms, 50)
    p99 = percentile(measured.latencies_ms, 99)
    return [
        Target(
            name="CPU a message of worker, spawner and recorder",
            wanted=f"<= {MAX_CPU_MS:.2f} ms",
            measured=f"{cpu_ms:.3f} ms",
            is_met=cpu_ms <= MAX_CPU_MS,
        ),
        Target(
            name="throughput with the recorder on, share of the floor",
            wanted=f">= {MIN_FLOOR_SHARE:.0%}",
            measured="no floor" if share is None else f"{share:.1%}",
            is_met=None if share is None else share >= MIN_FLOOR_SHARE,
        ),
        _latency("p50", p50, MAX_P50_MS),
        _latency("p99", p99, MAX_P99_MS),
    ]


def _latency(name: str, measured_ms: float, limit_ms: float) -> Target:
    return Target(
        name=f"end to end {name} at 100 messages/s",
        wanted=f"<= {limit_ms:.0f} ms",
        measured=f"{measured_ms:.1f} ms",
        is_met=measured_ms <= limit_ms,
    )
