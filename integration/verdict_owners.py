"""Who may still do what after a partition changed hands. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

GRACE_SECONDS = 0.25
"""Clocks of Kafka, Postgres and the sampler are read one after the other."""
FENCE_SECONDS = 5.0
"""A thawed worker hears with its next heartbeat (every 3 s at most) that it is out of its group."""

ENDS = ("lost", "revoked")


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What a run told of a partition: an epoch began or ended, a message was delivered or ended."""

    at: float
    run: str
    worker: str
    seq: int
    kind: str
    partition: int
    epoch: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Silence:
    """From when until when a worker could not hear of its group."""

    worker: str
    began: float
    until: float


def work_after_the_end(told: Iterable[Told]) -> Iterator[str]:
    """Work that a run told of a partition of which it had ended every epoch.

    What a sink held already when the epoch ended may be stored, and told, a little later.
    """
    begun: defaultdict[tuple[str, int], set[int | None]] = defaultdict(set)
    ended: dict[tuple[str, int], float] = {}
    for one in sorted(told, key=lambda one: (one.run, one.seq)):
        epochs = begun[(one.run, one.partition)]
        if one.kind == "assigned":
            epochs.add(one.epoch)
        elif one.kind in ENDS:
            epochs.discard(one.epoch)
            ended[(one.run, one.partition)] = one.at
        elif not epochs and not _was_out(one, ended.get((one.run, one.partition))):
            yield f"{one.worker} told {one.kind} of partition {one.partition} after its epoch"


def _was_out(one: Told, ended: float | None) -> bool:
    return one.kind == "delivered" and ended is not None and one.at <= ended + FENCE_SECONDS


def work_of_former_owners(told: Iterable[Told], silences: Iterable[Silence]) -> Iterator[str]:
    """Work on a partition that another run has by now.

    Excused for what a frozen worker does until it can have heard of it.
    """
    deaf = list(silences)
    owners: dict[int, Told] = {}
    for one in sorted(told, key=lambda one: one.at):
        if one.kind == "assigned":
            owners[one.partition] = one
        owner = owners.get(one.partition, one)
        seconds = one.at - owner.at
        is_former = owner.run != one.run and seconds > GRACE_SECONDS and one.kind not in ENDS
        if is_former and not any(_is_excused(one, silence) for silence in deaf):
            yield (
                f"{one.worker} told {one.kind} of partition {one.partition} {seconds:.1f} s after"
                f" {owner.worker} had it"
            )


def _is_excused(one: Told, silence: Silence) -> bool:
    is_deaf = silence.began <= one.at <= silence.until + FENCE_SECONDS
    return is_deaf and silence.worker in (one.worker, "")


def commits_that_went_back(samples: Iterable[Mapping[int, int]]) -> Iterator[str]:
    """Committed offsets that fell: somebody who owned the partition no more committed."""
    highest: dict[int, int] = {}
    for offsets in samples:
        for partition, offset in offsets.items():
            if offset < highest.get(partition, 0):
                yield f"partition {partition}: committed {highest[partition]}, then {offset}"
            highest[partition] = offset
