"""When a connection that answers is given up: once, after nothing was stored for too long."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import ClassVar

import pytest

from domain.breaker import BreakerPolicy
from domain.retry import Backoff
from sinks.base import ConfigError, Delivery, SinkError, TransientError
from sinks.fruitless import Fruitless
from sinks.lane import Lane
from sinks.lane_queue import LanePolicy, OutcomeKind
from tests.support.lanes import DEADLINE_SECONDS, Collector
from tests.unit.test_lane import entries

QUICK = Backoff(initial_seconds=0.001, factor=1, max_seconds=0.001, jitter=0)
PATIENT = BreakerPolicy(failure_threshold=10_000)


def test_it_is_asked_about_after_the_time_and_again_after_as_long() -> None:
    state = Fruitless(60.0)
    asked = [now for now in range(0, 200, 10) if state.failed(float(now))]
    assert asked == [60, 120, 180]


def test_it_is_dropped_once_until_something_is_stored() -> None:
    state = Fruitless(60.0)
    state.failed(100.0)
    assert state.failed(160.0)
    assert state.dropped(161.0) == 61.0
    assert not any(state.failed(float(now)) for now in range(170, 1000, 10))
    state.stored()
    assert not state.failed(1000.0)
    assert state.failed(1060.0)


class Place:
    """A place whose first connection is useless; others are as ``is_up`` says."""

    kind: ClassVar[str] = "memory"

    def __init__(self) -> None:
        self.opened = 0
        self.is_up = True
        self.is_asked = threading.Event()
        self.stored: list[object] = []
        self.tried: list[list[object]] = []
        self.refuse: Callable[[list[object]], SinkError | None] = lambda values: None

    def sink(self) -> Connection:
        return Connection(self)


class Connection:
    """One connection to the place."""

    kind: ClassVar[str] = "memory"

    def __init__(self, place: Place) -> None:
        self.place = place
        self.number = -1

    def open(self) -> None:
        if self.place.opened and not self.place.is_up:
            self.place.is_asked.set()
            raise TransientError("nobody listens")
        self.number = self.place.opened
        self.place.opened += 1

    def encode(self, delivery: Delivery) -> object:
        return delivery.payload.value  # type: ignore[attr-defined]

    def send(self, batch: Sequence[object]) -> None:
        self.place.tried.append(list(batch))
        if self.number == 0:
            raise TransientError("READONLY this connection leads nowhere")
        if (error := self.place.refuse(list(batch))) is not None:
            raise error
        self.place.stored += batch

    def close(self) -> None:
        """Nothing to release."""


def lane_of(place: Place, fruitless_seconds: float = 0.05) -> Lane:
    policy = LanePolicy(backoff=QUICK, breaker=PATIENT, fruitless_seconds=fruitless_seconds)
    return Lane("s", "memory", place.sink, policy)


async def submitted(lane: Lane, owner: Collector, values: Sequence[object]) -> None:
    lane.listen(owner)
    lane.start()
    lane.pause()
    await lane.submit(entries(owner, values))
    lane.resume()


def test_a_lane_drops_a_useless_connection_once_and_says_so() -> None:
    async def scenario() -> None:
        place, owner = Place(), Collector(3)
        lane = lane_of(place)
        await submitted(lane, owner, "abc")
        assert await owner.wait() == [OutcomeKind.DELIVERED] * 3
        assert lane.statistics().reconnects == 1
        (dropped,) = owner.dropped
        assert dropped.seconds >= 0.05
        assert "READONLY" in dropped.detail
        assert await lane.close(DEADLINE_SECONDS)

    asyncio.run(scenario())


def test_it_is_kept_while_no_other_can_be_opened() -> None:
    async def scenario() -> None:
        place, owner = Place(), Collector(1)
        lane = lane_of(place)
        await submitted(lane, owner, "a")
        place.is_up = False
        assert await asyncio.to_thread(place.is_asked.wait, DEADLINE_SECONDS)
        assert lane.statistics().reconnects == 0
        place.is_up = True
        assert await owner.wait() == [OutcomeKind.DELIVERED]
        assert lane.statistics().reconnects == 1
        assert await lane.close(DEADLINE_SECONDS)

    asyncio.run(scenario())


@pytest.mark.parametrize("error", [TransientError("503"), ConfigError("no such table")])
def test_one_that_is_waited_for_does_not_hold_up_the_others(error: SinkError) -> None:
    """An error that is no fault of the data, but comes with one payload only: that one waits."""

    async def scenario() -> None:
        place, owner = Place(), Collector(50)
        place.refuse = lambda values: error if 7 in values else None
        lane = lane_of(place)
        await submitted(lane, owner, range(50))
        await owner.until(49)
        assert 7 not in owner.outcomes
        more = Collector(20)
        await lane.submit(entries(more, range(100, 120)))
        assert await more.wait() == [OutcomeKind.DELIVERED] * 20
        assert 7 not in owner.outcomes
        place.refuse = lambda values: None
        assert await owner.wait() == [OutcomeKind.DELIVERED] * 50
        assert sorted(map(int, map(str, place.stored))) == [*range(50), *range(100, 120)]
        assert await lane.close(DEADLINE_SECONDS)

    asyncio.run(scenario())


def test_what_fails_alone_goes_behind_the_others() -> None:
    """A kind that sends one at a time, as http does: the first one's 503 stops no other."""

    async def scenario() -> None:
        place, owner = Place(), Collector(5)
        place.opened = 1
        place.refuse = lambda values: TransientError("503") if 0 in values else None
        policy = LanePolicy(backoff=QUICK, breaker=PATIENT, max_batch=1)
        lane = Lane("s", "memory", place.sink, policy)
        await submitted(lane, owner, range(5))
        await owner.until(4)
        assert 0 not in owner.outcomes
        place.refuse = lambda values: None
        assert await owner.wait() == [OutcomeKind.DELIVERED] * 5
        assert await lane.close(DEADLINE_SECONDS)

    asyncio.run(scenario())


def test_what_is_given_up_while_it_fails_alone_is_not_sent_again() -> None:
    """Law 6: its partition is another's by then, who delivers it."""

    async def scenario() -> None:
        place, owner = Place(), Collector(2)
        attempts, again, gate = [0], threading.Event(), threading.Event()

        def refuse(values: list[object]) -> SinkError | None:
            if 0 not in values:
                return None
            attempts[0] += 1
            if attempts[0] == 2:
                again.set()
                assert gate.wait(DEADLINE_SECONDS)
            return TransientError("503") if attempts[0] < 3 else None

        place.opened, place.refuse = 1, refuse
        lane = lane_of(place, fruitless_seconds=0.0)
        lane.listen(owner)
        lane.start()
        given_up, *others = entries(owner, [0, 1, 2])
        await lane.submit([given_up])
        assert await asyncio.to_thread(again.wait, DEADLINE_SECONDS)
        lane.withdraw([given_up])
        gate.set()
        for other in others:
            await lane.submit([other])
        assert await owner.wait() == [OutcomeKind.DELIVERED] * 2
        assert (place.stored, attempts) == ([1, 2], [2])
        assert lane.statistics().queue_entries == 0
        assert await lane.close(DEADLINE_SECONDS)

    asyncio.run(scenario())
