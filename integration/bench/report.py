"""Judgement of a bench run: shares, ratios, targets; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from integration.bench.figures import median, ratio
from integration.bench.floor import Floor
from integration.bench.pipeline import PipelineRound
from integration.bench.rounds import Calm, Peer, Throughput

OURS = (Peer.RECORDER_OFF, Peer.RECORDER_ON)
MIN_TIMES_BY_HAND = {Peer.RECORDER_OFF: 1.4, Peer.RECORDER_ON: 1.15}
MAX_OVERHEAD = {Peer.RECORDER_OFF: 0.80, Peer.RECORDER_ON: 0.95}
MIN_FLOOR_SHARE = {Peer.RECORDER_OFF: 0.50, Peer.RECORDER_ON: 0.42}
MAX_PACED_CPU_MS = 2.2
MAX_P50_MS = 4.5
MAX_P99_MS = 11.0
MIN_PIPELINE_PER_SECOND = 13_000.0
MAX_HISTORY_BYTES = 700.0
MAX_RSS_MIB = 120.0
MAX_START_SECONDS = 1.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """What else the machine did during the run: load averages of 1 minute, and stolen seconds."""

    load_before: float
    load_after: float
    stolen_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """All rounds of one run.

    ``floors``: one before and one after each round; empty without gcc. ``pipeline``: without
    programs.
    """

    floors: Sequence[Floor]
    rounds: Mapping[Peer, Sequence[Throughput]]
    pipeline: Sequence[PipelineRound]
    calm: Calm
    noise: Noise


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One figure against its target; ``is_met`` is None where it could not be measured."""

    name: str
    wanted: str
    measured: str
    is_met: bool | None


def times_by_hand(measured: Measured, peer: Peer) -> float:
    """Throughput over that of the worker written by hand: the median of each round's own ratio."""
    return ratio(measured.rounds[peer], measured.rounds[Peer.BY_HAND], "per_second")


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
    rounds, calm = measured.rounds[Peer.RECORDER_ON], measured.calm
    limits: list[tuple[str, float | None, float, str]] = [
        ("bytes of history a message", median(rounds, "history_bytes"), MAX_HISTORY_BYTES, ""),
        ("memory of a worker", calm.rss_mib, MAX_RSS_MIB, "MiB"),
        ("start to first result", median(rounds, "start_seconds"), MAX_START_SECONDS, "s"),
        ("CPU a message at 100 messages/s", calm.worker_cpu_ms, MAX_PACED_CPU_MS, "ms"),
        ("p50 at 100 messages/s", calm.p50_ms, MAX_P50_MS, "ms"),
        ("p99 at 100 messages/s", calm.p99_ms, MAX_P99_MS, "ms"),
    ]
    alone = median(measured.pipeline, "per_second")
    return [
        *(target for peer in OURS for target in _of_peer(measured, peer)),
        Target(
            name="the pipeline alone, without programs: messages/s",
            wanted=f">= {MIN_PIPELINE_PER_SECOND:,.0f}",
            measured=f"{alone:,.0f}",
            is_met=alone >= MIN_PIPELINE_PER_SECOND,
        ),
        *(_at_most(*limit) for limit in limits),
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


def _at_most(name: str, measured: float | None, limit: float, unit: str = "") -> Target:
    return Target(
        name=name,
        wanted=f"<= {limit:.2f} {unit}".rstrip(),
        measured="unknown" if measured is None else f"{measured:.2f} {unit}".rstrip(),
        is_met=None if measured is None else measured <= limit,
    )
