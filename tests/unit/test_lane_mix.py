"""Payloads of every kind in one lane, on several threads: each ends as its own kind does."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Sequence
from enum import Enum
from typing import ClassVar

from hypothesis import given, settings
from hypothesis import strategies as st

from domain.breaker import BreakerPolicy
from domain.payload import MemoryPayload
from domain.retry import Backoff
from sinks.base import ConfigError, Delivery, PermanentError, TransientError, UnknownError
from sinks.lane import Lane
from sinks.lane_queue import LanePolicy, OutcomeKind
from tests.support.lanes import DEADLINE_SECONDS, Collector, entries_of

QUICK = Backoff(initial_seconds=0.001, factor=1, max_seconds=0.001, jitter=0)


class Nature(Enum):
    """What a payload brings on."""

    GOOD = "stored"
    UNENCODABLE = "raises when it is encoded"
    REFUSED = "refused for its data"
    STRANGE = "an error of the driver in no table"
    UNLISTED = "a server's error in no table"
    SLOW = "an error that is waited for, as long as it lasts"
    MISCONFIGURED = "an error an operator mends"


WAITING = {Nature.SLOW, Nature.MISCONFIGURED}
MOST_TRAFFIC = 500
LETTERS = {Nature.UNENCODABLE, Nature.REFUSED, Nature.STRANGE, Nature.UNLISTED}


class World:
    """What all threads' sinks see."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.stored: Counter[int] = Counter()
        self.is_mended = False


class MixedSink:
    """Stores a batch whole or nothing of it."""

    kind: ClassVar[str] = "memory"

    def __init__(self, world: World) -> None:
        self.world = world

    def open(self) -> None:
        """Nothing to connect to."""

    def encode(self, delivery: Delivery) -> tuple[int, Nature]:
        assert isinstance(delivery.payload, MemoryPayload)
        nature: Nature = delivery.payload.value
        if nature is Nature.UNENCODABLE:
            raise RecursionError
        return delivery.offset, nature

    def send(self, batch: Sequence[tuple[int, Nature]]) -> None:
        natures = {nature for _, nature in batch}
        waited_for = not self.world.is_mended
        if Nature.MISCONFIGURED in natures and waited_for:
            raise ConfigError("no such table")
        if Nature.SLOW in natures and waited_for:
            raise TransientError("503")
        if Nature.STRANGE in natures:
            raise LookupError("a bug")
        if Nature.UNLISTED in natures:
            raise UnknownError("code 99999")
        if Nature.REFUSED in natures:
            raise PermanentError("bad data")
        with self.world.lock:
            self.world.stored.update(offset for offset, _ in batch)

    def close(self) -> None:
        """Nothing to release."""


def deliveries(natures: Sequence[Nature], first: int = 0) -> list[Delivery]:
    return [
        Delivery(
            payload=MemoryPayload(sink="s", value=nature),
            delivery_id=str(n),
            topic="t",
            partition=0,
            offset=n,
        )
        for n, nature in enumerate(natures, first)
    ]


async def traffic(lane: Lane, owner: Collector, count: int) -> int:
    """Good payloads, one after the other, until ``owner`` has its outcomes; how many."""
    for number in range(MOST_TRAFFIC):
        if len(owner.outcomes) >= count:
            return number
        other = Collector(1)
        await lane.submit(entries_of(other, deliveries([Nature.GOOD], 1000 + number)))
        assert await other.wait() == [OutcomeKind.DELIVERED]
    raise AssertionError(f"{len(owner.outcomes)} of {count} after {MOST_TRAFFIC} good ones")


@settings(max_examples=25, deadline=None)
@given(
    natures=st.lists(st.sampled_from(Nature), min_size=1, max_size=40),
    max_batch=st.sampled_from([1, 3, 500]),
    threads=st.sampled_from([1, 3]),
)
def test_each_ends_as_its_own_kind_does(
    natures: list[Nature], max_batch: int, threads: int
) -> None:
    """While others come and go: none of these is held up, whatever the rest brings on."""

    async def scenario() -> None:
        world, owner = World(), Collector(len(natures))
        breaker = BreakerPolicy(failure_threshold=5, cooldown_seconds=0.002)
        policy = LanePolicy(
            backoff=QUICK, breaker=breaker, max_batch=max_batch, fruitless_seconds=0.01
        )
        lane = Lane("s", "memory", lambda: MixedSink(world), policy, threads=threads)
        lane.start()
        lane.pause()
        await lane.submit(entries_of(owner, deliveries(natures)))
        lane.resume()
        waits = {n for n, one in enumerate(natures) if one in WAITING}
        sent = await traffic(lane, owner, len(natures) - len(waits))
        assert not owner.outcomes.keys() & waits
        world.is_mended = True
        kinds = await owner.wait()
        assert kinds == [
            OutcomeKind.REFUSED if nature in LETTERS else OutcomeKind.DELIVERED
            for nature in natures
        ]
        good = [n for n, nature in enumerate(natures) if nature not in LETTERS]
        assert world.stored == Counter([*good, *range(1000, 1000 + sent)])
        assert lane.statistics().queue_entries == lane.statistics().queue_bytes == 0
        assert await lane.close(DEADLINE_SECONDS)

    asyncio.run(scenario())
