"""Seconds that the partitions of a worker that went down stood still. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from integration.chaos.plan import Deed

SETTLE_SECONDS = 0.5
"""Seconds later that what a worker sent before it went down may land."""

Samples = Sequence[tuple[float, Mapping[int, int]]]
"""Committed offsets by partition, each at its time in epoch seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """A worker went down at ``at`` (epoch seconds) and owned these partitions."""

    at: float
    deed: Deed
    worker: str
    partitions: frozenset[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """``seconds`` by partition until its committed offset moved; ``idle`` had nothing left."""

    outage: Outage
    seconds: Mapping[int, float]
    idle: frozenset[int]

    @property
    def slowest_seconds(self) -> float:
        """Of the last partition to move; 0 when none had anything left."""
        return max(self.seconds.values(), default=0.0)

    def text(self) -> str:
        """A line of the table."""
        name = f"{self.outage.worker} {self.outage.deed.value}"
        if not self.seconds:
            return f"{name:<18} nothing was left in its {len(self.idle)} partitions"
        found = sorted(self.seconds.values())
        return (
            f"{name:<18} {len(found):>2} partitions moved after {found[0]:.1f} to {found[-1]:.1f} s"
            f" (median {median(found):.1f}); {len(self.idle)} had nothing left"
        )


def moves(outages: Sequence[Outage], samples: Samples) -> Iterator[Move]:
    """Return what the samples show of each outage; the run has drained, so each last offset is the
    end."""
    for outage in outages:
        before: dict[int, int] = {}
        seconds: dict[int, float] = {}
        for at, offsets in samples:
            if at <= outage.at + SETTLE_SECONDS:
                before.update(offsets)
                continue
            for number in outage.partitions - seconds.keys():
                if offsets.get(number, 0) > before.get(number, 0):
                    seconds[number] = at - outage.at
        yield Move(outage=outage, seconds=seconds, idle=outage.partitions - seconds.keys())


def breaches(found: Sequence[Move], bound_seconds: float) -> Iterator[str]:
    """Outages after which a partition stood still for longer, or nothing could be measured."""
    if not any(move.seconds for move in found):
        yield "no partition had anything left at any outage: nothing was measured"
    for move in found:
        if move.slowest_seconds > bound_seconds:
            yield (
                f"{move.outage.worker} {move.outage.deed.value}: a partition stood still for"
                f" {move.slowest_seconds:.1f} s, more than {bound_seconds:g} s"
            )
