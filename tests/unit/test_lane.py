"""The lane around a scriptable sink: each behaviour through the seam, awaited with a deadline."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import ClassVar

from domain.breaker import BreakerPolicy, Circuit
from domain.decision import DeliveryDecision, Retry, Skip
from domain.failure import DeliveryError
from domain.payload import MemoryPayload
from domain.retry import Backoff
from sinks.base import ConfigError, Delivery, PermanentError, TransientError
from sinks.lane import Lane
from sinks.lane_queue import Entry, LanePolicy, OutcomeKind
from sinks.lane_thread import Ask
from tests.support.lanes import DEADLINE_SECONDS, Collector, entries_of

QUICK = Backoff(initial_seconds=0.001, factor=1, max_seconds=0.001, jitter=0)


class ScriptedSink:
    """Raises what the script says for a batch of values, else stores them."""

    kind: ClassVar[str] = "memory"

    def __init__(self, script: Callable[[list[object]], Exception | None]) -> None:
        self.script = script
        self.stored: list[object] = []
        self.calls: list[list[object]] = []

    def open(self) -> None:
        """Nothing to connect to."""

    def deliver(self, batch: Sequence[Delivery]) -> None:
        values = [delivery.payload.value for delivery in batch]  # type: ignore[attr-defined]
        self.calls.append(values)
        if (error := self.script(values)) is not None:
            raise error
        self.stored += values

    def close(self) -> None:
        """Nothing to release."""


def entries(owner: Collector, values: Sequence[object], size_bytes: int = 10) -> list[Entry]:
    deliveries = [
        Delivery(
            payload=MemoryPayload(sink="s", value=value),
            delivery_id=str(index),
            topic="t",
            partition=0,
            offset=index,
        )
        for index, value in enumerate(values)
    ]
    return entries_of(owner, deliveries, size_bytes)


@asynccontextmanager
async def running(
    sink: ScriptedSink,
    owner: Collector,
    *,
    ask: Ask | None = None,
    breaker: BreakerPolicy | None = None,
    queue_bytes: int = 1_000_000,
) -> AsyncIterator[Lane]:
    policy = LanePolicy(backoff=QUICK, breaker=breaker or BreakerPolicy(), queue_bytes=queue_bytes)
    lane = Lane("s", "memory", lambda: sink, policy, ask=ask)
    lane.listen(owner)
    lane.start()
    try:
        yield lane
    finally:
        assert await lane.close(DEADLINE_SECONDS)


def test_narrowing_refuses_the_bad_one_and_stores_good_ones_once() -> None:
    async def scenario() -> None:
        sink = ScriptedSink(lambda v: PermanentError("bad 37") if 37 in v else None)
        owner = Collector(100)
        async with running(sink, owner) as lane:
            await lane.submit(entries(owner, range(100)))
            kinds = await owner.wait()
            assert kinds[37] is OutcomeKind.REFUSED
            assert kinds.count(OutcomeKind.DELIVERED) == 99
            assert sorted(sink.stored) == [n for n in range(100) if n != 37]  # type: ignore[type-var]
            assert lane.statistics().queue_bytes == 0

    asyncio.run(scenario())


def test_bad_indices_need_no_further_delivery() -> None:
    async def scenario() -> None:
        sink = ScriptedSink(lambda v: PermanentError("bad", bad_indices=[1]))
        owner = Collector(3)
        async with running(sink, owner) as lane:
            await lane.submit(entries(owner, range(3)))
            kinds = await owner.wait()
        assert kinds == [OutcomeKind.DELIVERED, OutcomeKind.REFUSED, OutcomeKind.DELIVERED]
        assert len(sink.calls) == 1

    asyncio.run(scenario())


def test_transient_waits_and_what_was_stored_before_it_is_not_delivered_again() -> None:
    async def scenario() -> None:
        errors: list[Exception | None] = [TransientError("away", stored_indices=[0]), None]
        sink = ScriptedSink(lambda v: errors.pop(0))
        owner = Collector(2)
        async with running(sink, owner) as lane:
            await lane.submit(entries(owner, ["a", "b"]))
            assert await owner.wait() == [OutcomeKind.DELIVERED] * 2
            assert lane.statistics().retries == 1
        assert sink.calls == [["a", "b"], ["b"]]

    asyncio.run(scenario())


def test_config_error_waits_and_the_handler_is_not_asked() -> None:
    async def scenario() -> None:
        errors: list[Exception | None] = [ConfigError("no table"), None]
        sink = ScriptedSink(lambda v: errors.pop(0))
        owner = Collector(1)
        asked: list[DeliveryError] = []

        async def ask(error: DeliveryError) -> DeliveryDecision:
            asked.append(error)
            return Skip(reason="never")

        async with running(sink, owner, ask=ask) as lane:
            await lane.submit(entries(owner, ["a"]))
            assert await owner.wait() == [OutcomeKind.DELIVERED]
        assert not asked
        assert owner.failed[0].error_class == "config"

    asyncio.run(scenario())


def test_handler_sees_the_attempt_of_the_refused_payload() -> None:
    async def scenario() -> None:
        sink = ScriptedSink(lambda v: PermanentError("no") if "bad" in v else None)
        owner = Collector(2)
        attempts: list[int] = []

        async def ask(error: DeliveryError) -> DeliveryDecision:
            attempts.append(error.attempt)
            return Skip(reason="enough") if error.attempt == 3 else Retry(delay_seconds=0)

        async with running(sink, owner, ask=ask) as lane:
            await lane.submit(entries(owner, ["good", "bad"]))
            assert await owner.wait() == [OutcomeKind.DELIVERED, OutcomeKind.SKIPPED]
        assert attempts == [1, 2, 3]
        assert sink.stored == ["good"]

    asyncio.run(scenario())


def test_raising_handler_refuses_with_its_traceback() -> None:
    async def scenario() -> None:
        sink = ScriptedSink(lambda v: TransientError("away"))
        owner = Collector(1)

        async def ask(error: DeliveryError) -> DeliveryDecision:
            raise ValueError("handler bug")

        async with running(sink, owner, ask=ask) as lane:
            await lane.submit(entries(owner, ["a"]))
            assert await owner.wait() == [OutcomeKind.REFUSED]
        assert "handler bug" in owner.outcomes[0].traceback

    asyncio.run(scenario())


def test_breaker_opens_and_a_probe_closes_it_and_nobody_is_asked_meanwhile() -> None:
    async def scenario() -> None:
        errors: list[Exception | None] = [TransientError("away") for _ in range(4)]
        sink = ScriptedSink(lambda v: errors.pop(0) if errors else None)
        owner = Collector(1)
        asked: list[int] = []

        async def ask(error: DeliveryError) -> DeliveryDecision:
            asked.append(error.attempt)
            return Retry()

        breaker = BreakerPolicy(failure_threshold=2, cooldown_seconds=0.01)
        async with running(sink, owner, ask=ask, breaker=breaker) as lane:
            await lane.submit(entries(owner, ["a"]))
            assert await owner.wait() == [OutcomeKind.DELIVERED]
            assert lane.statistics().circuit is Circuit.CLOSED
        assert [change.is_open for change in owner.changes] == [True, False]
        assert asked == [1]

    asyncio.run(scenario())


def test_withdrawal_works_until_deliver_starts_and_bytes_hold_submitters_back() -> None:
    async def scenario() -> None:
        started, gate = threading.Event(), threading.Event()

        def script(values: list[object]) -> None:
            started.set()
            assert gate.wait(DEADLINE_SECONDS)

        sink = ScriptedSink(script)
        owner = Collector(1)
        first, second, third = entries(owner, ["a", "b", "c"], size_bytes=60)
        async with running(sink, owner, queue_bytes=120) as lane:
            await lane.submit([first])
            assert await asyncio.to_thread(started.wait, DEADLINE_SECONDS)
            await lane.submit([second])
            held = asyncio.create_task(lane.submit([third]))
            await asyncio.sleep(0)
            assert not held.done()
            assert lane.withdraw([first, second]) == 1
            await asyncio.wait_for(held, DEADLINE_SECONDS)
            assert first.is_started
            assert not second.is_started
            assert lane.withdraw([third]) == 1
            gate.set()
            assert await owner.wait() == [OutcomeKind.DELIVERED]
            assert lane.statistics().queue_bytes == 0
        assert sink.stored == ["a"]

    asyncio.run(scenario())
