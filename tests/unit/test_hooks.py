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
