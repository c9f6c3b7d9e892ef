"""Hooks are called plain or async, timed, bounded, and their errors counted."""

from __future__ import annotations

import asyncio

import pytest

from domain.events import Event, HookSlow
from workers.clock import Clock
from workers.pipeline.hooks import HookFailed, Hooks


def hooks(told: list[Event], timeout_seconds: float | None = None) -> Hooks:
    return Hooks(clock=Clock(), tell=told.append, timeout_seconds=timeout_seconds)


def plain(value: int) -> int:
    return value + 1


async def waiting(value: int) -> int:
    return value + 1


async def endless() -> None:
    await asyncio.Event().wait()


def raising() -> None:
    raise KeyError("gone")


def test_plain_and_async_hooks_answer() -> None:
    caller = hooks([])
    assert asyncio.run(caller.call(plain, 1)) == 2
    assert asyncio.run(caller.call(waiting, 1)) == 2
    assert (caller.figures["plain"].calls, caller.figures["plain"].errors) == (1, 0)


def test_a_raising_hook_is_named_and_counted() -> None:
    caller = hooks([])
    with pytest.raises(HookFailed, match="raising raised KeyError") as caught:
        asyncio.run(caller.call(raising))
    assert "Traceback" in caught.value.trace
    assert (caller.figures["raising"].calls, caller.figures["raising"].errors) == (1, 1)


def test_a_hook_past_its_time_fails() -> None:
    with pytest.raises(HookFailed, match="TimeoutError"):
        asyncio.run(hooks([], 0.01).call(endless))


def test_a_hook_that_awaits_what_another_cancelled_fails_and_one_cancelled_itself_ends() -> None:
    async def broken() -> None:
        other = asyncio.ensure_future(endless())
        other.cancel()
        await other

    async def scenario() -> None:
        with pytest.raises(HookFailed, match="broken raised CancelledError"):
            await hooks([]).call(broken)
        running = asyncio.create_task(hooks([]).call(endless))
        await asyncio.sleep(0)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(scenario())


def test_a_fallback_stands_in_for_a_raising_hook() -> None:
    caller = hooks([])
    assert caller.call_now(raising, "default") == "default"
    assert caller.figures["raising"].errors == 1


def test_a_slow_hook_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Event] = []
    monkeypatch.setattr("workers.pipeline.hooks.SLOW_SECONDS", -1.0)
    asyncio.run(hooks(told).call(plain, 1, topic="t", partition=4))
    (event,) = told
    assert isinstance(event, HookSlow)
    assert (event.hook, event.topic, event.partition) == ("plain", "t", 4)


def test_a_slow_hook_of_the_workers_is_of_no_partition(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Event] = []
    monkeypatch.setattr("workers.pipeline.hooks.SLOW_SECONDS", -1.0)
    asyncio.run(hooks(told).call(plain, 1))
    (event,) = told
    assert isinstance(event, HookSlow)
    assert (event.topic, event.partition) == (None, None)


class Hand:
    """A clock turned by hand."""

    def __init__(self) -> None:
        self.at = 0.0

    def now(self) -> float:
        return self.at

    def wall(self) -> float:
        return self.at


def test_a_hook_that_does_not_return_is_told_while_it_runs() -> None:
    told: list[Event] = []

    async def scenario() -> None:
        hand = Hand()
        caller = Hooks(clock=hand, tell=told.append, timeout_seconds=None)  # type: ignore[arg-type]
        running = asyncio.create_task(caller.call(endless, topic="t", partition=4))
        await asyncio.sleep(0)
        for hand.at in (59.0, 60.0, 61.0, 119.0, 120.0, 121.0, 239.0, 240.0):
            caller.tell_lasting()
        running.cancel()
        await asyncio.wait([running])
        hand.at = 9999.0
        caller.tell_lasting()

    asyncio.run(scenario())
    slow = [one for one in told if isinstance(one, HookSlow)]
    assert [one.duration_ms / 1000 for one in slow] == [60.0, 120.0, 240.0, 240.0]
    assert {(one.hook, one.topic, one.partition) for one in slow} == {("endless", "t", 4)}
