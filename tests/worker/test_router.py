"""How payloads are stamped, checked and sent, and what becomes of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest

from domain.events import DeadLettered, Event
from domain.message import Message, Record
from domain.origin import REPLAY_HEADER, HookName, MessageOrigin, Origin
from domain.payload import KafkaPayload, MemoryPayload, Payload
from domain.retry import Backoff
from sinks.base import Delivery, PermanentError
from sinks.dead_letter import DeadLetterWriter
from sinks.lane import Lane
from sinks.lane_queue import LanePolicy
from sinks.letter import LetterStamp
from sinks.router import CallResult, Router, UnknownSink
from tests.support.pipeline import Letters

DEADLINE_SECONDS = 5.0
TRACE = f"00-{'ab' * 16}-{'cd' * 8}-01"
QUICK = Backoff(initial_seconds=0.001, factor=1, max_seconds=0.001, jitter=0)


class Store:
    """Keeps deliveries; refuses the value ``bad``."""

    kind: ClassVar[str] = "memory"

    def __init__(self) -> None:
        self.stored: list[Delivery] = []

    def open(self) -> None:
        """Nothing to connect to."""

    def encode(self, delivery: Delivery) -> Delivery:
        return delivery

    def send(self, batch: Sequence[Delivery]) -> None:
        bad = [i for i, one in enumerate(batch) if getattr(one.payload, "value", None) == "bad"]
        self.stored += [one for i, one in enumerate(batch) if i not in bad]
        if bad:
            raise PermanentError("bad value", bad)

    def close(self) -> None:
        """Nothing to release."""


@dataclass
class World:
    router: Router
    store: Store
    letters: Letters
    told: list[Event] = field(default_factory=list)

    async def send(self, *payloads: Payload, source: Record | None = None) -> CallResult:
        source = source or record()
        origin = MessageOrigin.of(source, "main")
        stamped = [(one, origin_of(origin, index)) for index, one in enumerate(payloads)]
        call = self.router.start(stamped, record=source, task_id="3:7:0", labels={"tenant": "acme"})
        return await asyncio.wait_for(call.wait(), DEADLINE_SECONDS)

    def kinds(self) -> list[str]:
        return [event.kind for event in self.told]


def record(headers: Any = ()) -> Record:
    return Message(
        topic="requests",
        partition=3,
        offset=7,
        key=b"k",
        value=b"v",
        headers=headers,
        timestamp=99,
        payload=None,
    )


def origin_of(message: MessageOrigin, index: int, hook: HookName = "collect") -> Origin:
    return Origin(message=message, n="0", hook=hook, index=index)


@asynccontextmanager
async def world() -> AsyncIterator[World]:
    store, letters, told = Store(), Letters(), list[Event]()
    policy = LanePolicy(backoff=QUICK)
    lanes = {
        name: Lane(name, "memory", lambda: store, policy, payload=MemoryPayload)
        for name in ("a", "b")
    }
    stamp = LetterStamp(cluster="main", group="g", worker="w")
    writer = DeadLetterWriter(lambda: letters, stamp, wall=lambda: 1.0, on_hold=lambda hold: None)
    router = Router(lanes, writer, tell=told.append, wall=lambda: 1.0)
    writer.start(asyncio.get_running_loop())
    for lane in lanes.values():
        lane.start()
    try:
        yield World(router, store, letters, told)
    finally:
        for lane in lanes.values():
            assert await lane.close(DEADLINE_SECONDS)
        assert await asyncio.to_thread(writer.close, DEADLINE_SECONDS)


@pytest.mark.parametrize(
    ("payload", "error", "words"),
    [
        (MemoryPayload(sink="c"), UnknownSink, "expected one of a, b, got 'c'"),
        (MemoryPayload(sink=""), UnknownSink, "expected one of a, b, got ''"),
        (KafkaPayload(sink="a"), UnknownSink, "sink a: expected MemoryPayload, got KafkaPayload"),
        (Payload(sink="a"), UnknownSink, "sink a: expected MemoryPayload, got Payload"),
        ({"sink": "a"}, TypeError, "expected payloads, got dict"),
        (None, TypeError, "expected payloads, got NoneType"),
    ],
)
def test_what_cannot_be_delivered_is_refused_before_anything_is_queued(
    payload: Any, error: type[Exception], words: str
) -> None:
    async def scenario() -> None:
        async with world() as live:
            with pytest.raises(error, match=words):
                live.router.check([MemoryPayload(sink="a"), payload])
            assert not live.store.stored

    asyncio.run(scenario())


def test_payloads_of_configured_sinks_pass_the_check() -> None:
    async def scenario() -> None:
        async with world() as live:
            live.router.check([MemoryPayload(sink="a"), MemoryPayload(sink="b")])

    asyncio.run(scenario())


def test_each_payload_has_the_identity_of_its_place() -> None:
    async def scenario() -> None:
        async with world() as live:
            payloads = [MemoryPayload(sink="a", value=n) for n in range(3)]
            result = await live.send(*payloads, MemoryPayload(sink="a", delivery_key="day-1"))
            assert result == CallResult(delivered=4, skipped=0, dead_lettered=0)
            assert [one.delivery_id for one in live.store.stored] == [
                "main/requests/3/7/99/0/collect/0",
                "main/requests/3/7/99/0/collect/1",
                "main/requests/3/7/99/0/collect/2",
                "main/requests/key:day-1",
            ]
            again = await live.send(*payloads)
            assert again.delivered == 3
            ids = [one.delivery_id for one in live.store.stored]
            assert ids[4:] == ids[:3]

    asyncio.run(scenario())


def test_a_replay_has_the_identity_of_the_first_life_and_keeps_the_trace() -> None:
    async def scenario() -> None:
        async with world() as live:
            headers = [(REPLAY_HEADER, b"main/requests/1/2/3"), ("traceparent", TRACE.encode())]
            await live.send(MemoryPayload(sink="a"), source=record(headers))
            (stored,) = live.store.stored
            assert stored.delivery_id == "main/requests/1/2/3/0/collect/0"
            assert (stored.partition, stored.offset) == (3, 7)
            assert stored.traceparent == TRACE
            assert stored.task_id == "3:7:0"

    asyncio.run(scenario())


def test_a_call_without_payloads_ends_at_once() -> None:
    async def scenario() -> None:
        async with world() as live:
            assert await live.send() == CallResult(delivered=0, skipped=0, dead_lettered=0)
            assert not live.told

    asyncio.run(scenario())


def test_what_is_refused_is_a_letter_of_its_own_and_the_rest_is_delivered() -> None:
    async def scenario() -> None:
        async with world() as live:
            result = await live.send(
                MemoryPayload(sink="a", value="good"),
                MemoryPayload(sink="b", value="bad"),
                MemoryPayload(sink="a", value="bad"),
            )
            assert result == CallResult(delivered=1, skipped=0, dead_lettered=2)
            headers = [letter[2] for letter in live.letters.stored]
            assert {one["drakkar-delivery-id"] for one in headers} == {
                b"main/requests/3/7/99/0/collect/1",
                b"main/requests/3/7/99/0/collect/2",
            }
            assert {one["drakkar-sink"] for one in headers} == {b"a", b"b"}
            assert {one["drakkar-reason"] for one in headers} == {b"bad value"}
            assert live.kinds().count("delivered") == 1
            assert live.kinds().count("delivery_failed") == 2
            lettered = [e.content.labels for e in live.told if isinstance(e, DeadLettered)]
            assert lettered == [{"tenant": "acme"}] * 2
            failed = [e for e in live.told if e.kind == "delivery_failed"]
            assert not any(event.is_transient for event in failed)  # type: ignore[attr-defined]

    asyncio.run(scenario())


def test_a_cancelled_call_takes_back_what_is_not_being_delivered() -> None:
    async def scenario() -> None:
        async with world() as live:
            lane = live.router.lane("a")
            lane.pause()
            origin = MessageOrigin.of(record(), "main")
            payload = MemoryPayload(sink="a")
            stamped = [(payload, origin_of(origin, 0))]
            call = live.router.start(stamped, record=record(), task_id=None)
            waiting = asyncio.create_task(call.wait())
            await asyncio.sleep(0)
            assert lane.statistics().queue_entries == 1
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert lane.statistics().queue_entries == 0
            assert not call.is_out
            lane.resume()
            assert (await live.send(MemoryPayload(sink="a", value="next"))).delivered == 1
            assert [one.payload for one in live.store.stored] == [
                MemoryPayload(sink="a", value="next")
            ]

    asyncio.run(scenario())
