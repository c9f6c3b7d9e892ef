"""Rights of former owners after a partition changed hands. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

GRACE_SECONDS = 0.25
"""Clocks of Kafka, Postgres and the sampler are read one after the other."""
FENCE_SECONDS = 5.0
"""A thawed worker hears with its next heartbeat (every 3 s at most) that it is out of its group."""
RECEIVER_SECONDS = 15.0
"""After its server's return a sink has tried again: its longest pause is 9.6 s."""

ENDS = ("lost", "revoked")


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """Event that a run told of a partition: an epoch began or ended, a message was delivered or
    ended."""

    at: float
    run: str
    worker: str
    seq: int
    kind: str
    partition: int
    epoch: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Silence:
    """From when until when a worker, or without a name each, could not hear of its group."""

    worker: str
    began: float
    until: float

    def excuses(self, one: Told) -> bool:
        """Whether a worker may have told this before it could have heard.

        What a sink held for Kafka itself is stored when the sink tries again.
        """
        if self.worker not in (one.worker, ""):
            return False
        is_held = not self.worker and one.kind == "delivered"
        late = RECEIVER_SECONDS if is_held else FENCE_SECONDS
        return self.began <= one.at <= self.until + late


def work_after_the_end(told: Iterable[Told], silences: Iterable[Silence] = ()) -> Iterator[str]:
    """Work that a run told of a partition of which it had ended every epoch.

    What a sink held already when the epoch ended may be stored, and told, a little later; where
    Kafka was away, later.
    """
    away = [silence for silence in silences if not silence.worker]
    begun: defaultdict[tuple[str, int], set[int | None]] = defaultdict(set)
    ended: dict[tuple[str, int], float] = {}
    for one in sorted(told, key=lambda one: (one.run, one.seq)):
        epochs = begun[(one.run, one.partition)]
        if one.kind == "assigned":
            epochs.add(one.epoch)
        elif one.kind in ENDS:
            epochs.discard(one.epoch)
            ended[(one.run, one.partition)] = one.at
        elif not epochs and not _was_out(one, ended.get((one.run, one.partition)), away):
            yield f"{one.worker} told {one.kind} of partition {one.partition} after its epoch"


def _was_out(one: Told, ended: float | None, away: Iterable[Silence]) -> bool:
    if one.kind != "delivered" or ended is None:
        return False
    is_held = any(silence.began <= ended and silence.excuses(one) for silence in away)
    return is_held or one.at <= ended + FENCE_SECONDS


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
        if is_former and not any(silence.excuses(one) for silence in deaf):
            yield (
                f"{one.worker} told {one.kind} of partition {one.partition} {seconds:.1f} s after"
                f" {owner.worker} had it"
            )


def commits_that_went_back(samples: Iterable[Mapping[int, int]]) -> Iterator[str]:
    """Committed offsets that fell: somebody who owned the partition no more committed."""
    highest: dict[int, int] = {}
    for offsets in samples:
        for partition, offset in offsets.items():
            if offset < highest.get(partition, 0):
                yield f"partition {partition}: committed {highest[partition]}, then {offset}"
            highest[partition] = offset
