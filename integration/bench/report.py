"""Judgement of a bench run: medians, shares, ratios, targets; pure."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from integration.bench.floor import Floor
from integration.bench.pipeline import PipelineRound
from integration.bench.rounds import Peer, Steady, Throughput

OURS = (Peer.RECORDER_OFF, Peer.RECORDER_ON)
MIN_TIMES_BY_HAND = {Peer.RECORDER_OFF: 1.4, Peer.RECORDER_ON: 1.15}
MAX_OVERHEAD = {Peer.RECORDER_OFF: 0.80, Peer.RECORDER_ON: 0.95}
MIN_FLOOR_SHARE = {Peer.RECORDER_OFF: 0.50, Peer.RECORDER_ON: 0.42}
MAX_STEADY_CPU_MS = 2.2
MAX_P50_MS = 4.5
MAX_P99_MS = 11.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """What else the machine did during the run: load averages of 1 minute, and stolen seconds."""

    load_before: float
    load_after: float
    stolen_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """All rounds of one run. ``floors``: one before and one after each round; empty without gcc."""

    floors: Sequence[Floor]
    rounds: Mapping[Peer, Sequence[Throughput]]
    steady: Steady
    noise: Noise


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


def median(rounds: Sequence[Throughput | Floor | PipelineRound], figure: str) -> float:
    """The median of one figure over all rounds."""
    return float(statistics.median(getattr(one, figure) for one in rounds))


def times_by_hand(measured: Measured, peer: Peer) -> float:
    """Throughput over that of the worker written by hand: the median of each round's own ratio."""
    pairs = zip(measured.rounds[peer], measured.rounds[Peer.BY_HAND], strict=True)
    return statistics.median(ours.per_second / theirs.per_second for ours, theirs in pairs)


def floor_share(measured: Measured, peer: Peer) -> float | None:
    """Throughput as a share of the floor; None without a floor."""
    if not measured.floors:
        return None
    return median(measured.rounds[peer], "per_second") / median(measured.floors, "per_second")


def floor_spread(floors: Sequence[Floor]) -> float:
    """How much the machine's own speed moved: the fastest floor over the slowest."""
    speeds = [one.per_second for one in floors]
    return max(speeds) / min(speeds)


def targets(measured: Measured) -> list[Target]:
    """Every target, met or not."""
    found = [target for peer in OURS for target in _of_peer(measured, peer)]
    steady = measured.steady
    return [
        *found,
        _at_most("CPU a message at 100 messages/s", steady.worker_cpu_ms, MAX_STEADY_CPU_MS, "ms"),
        _at_most("p50 at 100 messages/s", percentile(steady.latencies_ms, 50), MAX_P50_MS, "ms"),
        _at_most("p99 at 100 messages/s", percentile(steady.latencies_ms, 99), MAX_P99_MS, "ms"),
    ]


def _of_peer(measured: Measured, peer: Peer) -> list[Target]:
    name = f"recorder {peer}"
    times, share = times_by_hand(measured, peer), floor_share(measured, peer)
    overhead = median(measured.rounds[peer], "overhead")
    least_share = MIN_FLOOR_SHARE[peer]
    return [
        Target(
            name=f"{name}: messages/s over those of the worker by hand",
            wanted=f">= {MIN_TIMES_BY_HAND[peer]:.2f}",
            measured=f"{times:.2f}",
            is_met=times >= MIN_TIMES_BY_HAND[peer],
        ),
        _at_most(f"{name}: K, CPU of ours over that of the programs", overhead, MAX_OVERHEAD[peer]),
        Target(
            name=f"{name}: share of the floor",
            wanted=f">= {least_share:.0%}",
            measured="no floor" if share is None else f"{share:.1%}",
            is_met=None if share is None else share >= least_share,
        ),
    ]


def _at_most(name: str, measured: float, limit: float, unit: str = "") -> Target:
    return Target(
        name=name,
        wanted=f"<= {limit:.2f} {unit}".rstrip(),
        measured=f"{measured:.2f} {unit}".rstrip(),
        is_met=measured <= limit,
    )
