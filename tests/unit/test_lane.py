"""The lane around a scriptable sink: each behaviour through the seam, awaited with a deadline."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import ClassVar

import pytest

from domain.breaker import BreakerPolicy, Circuit
from domain.decision import DeliveryDecision, Retry, Skip
from domain.failure import DeliveryError
from domain.payload import MemoryPayload
from domain.retry import Backoff
from sinks.base import ConfigError, Delivery, PermanentError, TransientError
from sinks.lane import Lane
from sinks.lane_core import Ask
from sinks.lane_queue import Entry, LanePolicy, OutcomeKind
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

    def encode(self, delivery: Delivery) -> Delivery:
        return delivery

    def send(self, batch: Sequence[Delivery]) -> None:
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
            assert lane.statistics().breaker == Circuit.CLOSED
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


@pytest.mark.parametrize("error", [TransientError("away"), Exception("strange"), SystemExit("x")])
def test_what_is_given_up_during_its_delivery_is_not_delivered_again(error: BaseException) -> None:
    """Law 6: an epoch that ends while a sink is ill leaves nothing to deliver later."""

    async def scenario() -> None:
        started, gate = threading.Event(), threading.Event()

        def script(values: list[object]) -> None:
            if values == ["later"]:
                return
            started.set()
            assert gate.wait(DEADLINE_SECONDS)
            raise error

        sink = ScriptedSink(script)
        owner = Collector(1)
        given_up, later = entries(owner, ["given up", "later"])
        async with running(sink, owner) as lane:
            await lane.submit([given_up])
            assert await asyncio.to_thread(started.wait, DEADLINE_SECONDS)
            assert lane.withdraw([given_up]) == 0
            gate.set()
            await lane.submit([later])
            assert await owner.wait() == [OutcomeKind.DELIVERED]
            assert lane.statistics().queue_bytes == lane.statistics().queue_entries == 0
        assert sink.calls == [["given up"], ["later"]]

    asyncio.run(scenario())


def test_the_half_withdrawn_while_the_other_is_delivered_stays_withdrawn() -> None:
    async def scenario() -> None:
        started, gate = threading.Event(), threading.Event()
        errors: list[Exception | None] = [PermanentError("a bad one"), TransientError("away"), None]

        def script(values: list[object]) -> Exception | None:
            if values == ["a"] and not started.is_set():
                started.set()
                assert gate.wait(DEADLINE_SECONDS)
            return errors.pop(0)

        sink = ScriptedSink(script)
        owner = Collector(1)
        first, second = entries(owner, ["a", "b"])
        async with running(sink, owner) as lane:
            await lane.submit([first, second])
            assert await asyncio.to_thread(started.wait, DEADLINE_SECONDS)
            assert lane.withdraw([second]) == 1
            gate.set()
            assert await owner.wait() == [OutcomeKind.DELIVERED]
            assert lane.statistics().queue_bytes == 0
        assert sink.calls == [["a", "b"], ["a"], ["a"]]

    asyncio.run(scenario())


class Broken(TransientError):
    """An error whose own words are broken, as a plugin's may be."""

    def __init__(self) -> None:
        super().__init__("away")
        self.retry_after_seconds = "soon"  # type: ignore[assignment]
        self.stored_indices = None  # type: ignore[assignment]


class Strange(PermanentError):
    """An error that points at payloads by something that is not a number."""

    def __init__(self) -> None:
        super().__init__("bad")
        self.bad_indices = ("a", [])  # type: ignore[assignment]


class Mute(Exception):
    """An error that cannot be shown."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (SystemExit("plugin"), "unknown"),
        (KeyboardInterrupt(), "unknown"),
        (Mute(), "unknown"),
        (OSError("reset"), "unknown"),
        (Strange(), "permanent"),
        (Broken(), "transient"),
        (TimeoutError("slow"), "transient"),
    ],
    ids=lambda one: type(one).__name__ if isinstance(one, BaseException) else one,
)
def test_whatever_a_sink_raises_the_lane_goes_on(error: BaseException, kind: str) -> None:
    """Once for the batch: narrowed, or waited for, and all is stored."""

    async def scenario() -> None:
        errors: list[BaseException] = [error]

        def script(values: list[object]) -> None:
            if errors:
                raise errors.pop()

        sink = ScriptedSink(script)
        owner = Collector(3)
        async with running(sink, owner) as lane:
            await lane.submit(entries(owner, ["a", "b", "c"]))
            assert await owner.wait() == [OutcomeKind.DELIVERED] * 3
            statistics = lane.statistics()
        whole, rest = [["a", "b", "c"]], [["a"], ["b", "c"]]
        assert sink.calls == whole + (whole if kind == "transient" else rest)
        assert sink.stored == ["a", "b", "c"]
        assert statistics.retries == (3 if kind == "transient" else 0)
        assert statistics.queue_bytes == statistics.queue_entries == 0

    asyncio.run(scenario())


class FailingClock:
    """Raises once at its n-th reading, as nothing in a lane should: a fault of the lane itself."""

    def __init__(self, failing_at: int) -> None:
        self.left = failing_at

    def __call__(self) -> float:
        self.left -= 1
        if self.left == 0:
            raise SystemExit("the clock")
        return time.monotonic()


@pytest.mark.parametrize("failing_at", range(1, 12))
def test_what_breaks_the_thread_is_told_and_the_lane_goes_on(failing_at: int) -> None:
    """Wherever it breaks, nothing is lost, and at most what was being sent is sent again."""

    async def scenario() -> None:
        errors: list[Exception | None] = [PermanentError("a bad one")]
        sink = ScriptedSink(lambda values: errors.pop() if errors else None)
        owner = Collector(4)
        async with running(sink, owner) as lane:
            lane.pause()
            await lane.submit(entries(owner, ["a", "b", "c", "d"]))
            clock = FailingClock(failing_at)
            lane._started_core().clock = clock
            lane.resume()
            assert await owner.wait() == [OutcomeKind.DELIVERED] * 4
            errors_told = lane.statistics().errors_by_class
        assert set(sink.stored) == {"a", "b", "c", "d"}
        assert len(sink.stored) <= 6
        assert errors_told["transient"] == (1 if clock.left <= 0 else 0)

    asyncio.run(scenario())


def test_a_sink_that_breaks_while_it_opens_and_closes_still_serves() -> None:
    class Rude(ScriptedSink):
        opened = 0

        def open(self) -> None:
            self.opened += 1
            if self.opened == 1:
                raise SystemExit("open")

        def close(self) -> None:
            raise OSError("close")

    async def scenario() -> None:
        sink = Rude(lambda values: None)
        owner = Collector(1)
        async with running(sink, owner) as lane:
            await lane.submit(entries(owner, ["a"]))
            assert await owner.wait() == [OutcomeKind.DELIVERED]
            assert lane.is_opened
        assert sink.opened == 2

    asyncio.run(scenario())


def test_an_answer_cut_off_by_the_end_of_the_loop_is_no_refusal() -> None:
    async def scenario() -> None:
        sink = ScriptedSink(lambda values: PermanentError("no"))
        owner = Collector(1)
        asked = asyncio.Event()
        questions: list[asyncio.Task[None]] = []

        async def ask(error: DeliveryError) -> DeliveryDecision:
            if questions:
                return Skip(reason="asked again")
            questions.append(asyncio.current_task())  # type: ignore[arg-type]
            asked.set()
            never: asyncio.Future[DeliveryDecision] = asyncio.Future()
            return await never

        async with running(sink, owner, ask=ask) as lane:
            await lane.submit(entries(owner, ["a"]))
            await asyncio.wait_for(asked.wait(), DEADLINE_SECONDS)
            questions[0].cancel()
            assert await owner.wait() == [OutcomeKind.SKIPPED]

    asyncio.run(scenario())


def test_one_larger_than_the_bound_goes_when_the_lane_is_empty_and_waiters_go_in_order() -> None:
    async def scenario() -> None:
        sink = ScriptedSink(lambda values: None)
        owner = Collector(3)
        big, second, third = entries(owner, ["big", "second", "third"], size_bytes=5000)
        async with running(sink, owner, queue_bytes=100) as lane:
            lane.pause()
            await lane.submit([big])
            held = [asyncio.create_task(lane.submit([one])) for one in (second, third)]
            await asyncio.sleep(0)
            assert not any(task.done() for task in held)
            lane.resume()
            assert await owner.wait() == [OutcomeKind.DELIVERED] * 3
            await asyncio.gather(*held)
            assert lane.statistics().queue_bytes == 0
        assert sink.calls == [["big"], ["second"], ["third"]]

    asyncio.run(scenario())


class LateSink(ScriptedSink):
    """The first one opens; no other one does."""

    is_first = True

    def __init__(
        self, script: Callable[[list[object]], None], others_tried: threading.Event
    ) -> None:
        super().__init__(script)
        self.opens, LateSink.is_first = LateSink.is_first, False
        self._others_tried = others_tried

    def open(self) -> None:
        if not self.opens:
            self._others_tried.set()
            raise TransientError("too many connections")


def test_a_thread_that_cannot_open_its_sink_takes_no_wake_up_from_one_that_can() -> None:
    async def scenario() -> None:
        others_tried, started, gate = (threading.Event() for _ in range(3))
        LateSink.is_first = True

        def script(values: list[object]) -> None:
            started.set()
            assert gate.wait(DEADLINE_SECONDS)

        slow = Backoff(initial_seconds=60, factor=1, max_seconds=60, jitter=0)
        policy = LanePolicy(backoff=slow, max_batch=1)
        lane = Lane("s", "memory", lambda: LateSink(script, others_tried), policy, threads=2)
        lane.start()
        owner = Collector(2)
        first, second = entries(owner, ["a", "b"])
        await lane.submit([first])
        assert await asyncio.to_thread(started.wait, DEADLINE_SECONDS)
        await lane.submit([second])
        assert await asyncio.to_thread(others_tried.wait, DEADLINE_SECONDS)
        gate.set()
        assert await owner.wait() == [OutcomeKind.DELIVERED] * 2
        for value in range(5):
            later = Collector(1)
            await lane.submit(entries(later, [value]))
            assert await later.wait() == [OutcomeKind.DELIVERED]
        assert await lane.close(DEADLINE_SECONDS)

    asyncio.run(scenario())


def test_room_that_comes_in_the_moment_a_submitter_gives_up_goes_to_the_next() -> None:
    async def scenario() -> None:
        owner = Collector(1)
        first, second, third = entries(owner, ["a", "b", "c"], size_bytes=100)
        async with running(ScriptedSink(lambda values: None), owner, queue_bytes=100) as lane:
            lane.pause()
            await lane.submit([first])
            gone, next_one = [asyncio.create_task(lane.submit([one])) for one in (second, third)]
            await asyncio.sleep(0)
            gone.cancel()
            assert lane.withdraw([first]) == 1
            await asyncio.wait_for(next_one, DEADLINE_SECONDS)
            assert gone.cancelled()
            assert lane.statistics().queue_bytes == 100
            lane.resume()
            assert await owner.wait() == [OutcomeKind.DELIVERED]
            assert lane.statistics().queue_bytes == lane.statistics().queue_entries == 0

    asyncio.run(scenario())


def test_a_submitter_that_gives_up_lets_the_next_one_in() -> None:
    async def scenario() -> None:
        sink = ScriptedSink(lambda values: None)
        owner = Collector(2)
        first, large, small = entries(owner, ["first", "large", "small"], size_bytes=60)
        large.size_bytes = 500
        small.index = 1
        async with running(sink, owner, queue_bytes=120) as lane:
            lane.pause()
            await lane.submit([first])
            held = [asyncio.create_task(lane.submit([one])) for one in (large, small)]
            await asyncio.sleep(0)
            held[0].cancel()
            await asyncio.wait_for(held[1], DEADLINE_SECONDS)
            assert lane.statistics().queue_bytes == 120
            lane.resume()
            assert await owner.wait() == [OutcomeKind.DELIVERED] * 2
        assert sink.stored == ["first", "small"]

    asyncio.run(scenario())


def test_what_no_call_began_with_is_taken_back_and_given_back_once() -> None:
    async def scenario() -> None:
        sink, owner = ScriptedSink(lambda values: None), Collector(3)
        async with running(sink, owner) as lane:
            lane.pause()
            some = entries(owner, ["a", "b", "c"])
            await lane.submit(some)
            assert lane.is_paused
            assert lane.take_back(some[:2])
            assert lane.statistics().queue_entries == 1
            lane.give_back(some[:2])
            assert lane.statistics().queue_bytes == 30
            lane.resume()
            assert await owner.wait() == [OutcomeKind.DELIVERED] * 3
            assert sorted(map(str, sink.stored)) == ["a", "b", "c"]
            assert not lane.take_back(some)
            assert lane.statistics().queue_entries == 0

    asyncio.run(scenario())
