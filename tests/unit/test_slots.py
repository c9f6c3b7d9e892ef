"""Slots: order, the half rule, and cancelled waiters."""

from __future__ import annotations

import asyncio

import pytest

from workers.executor.slots import Slots


async def _settle() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


def test_lowest_priority_first_then_arrival() -> None:
    async def scenario() -> None:
        slots, order = Slots(1), []
        await slots.acquire(owner="a", priority=0)

        async def wait(name: str, priority: float) -> None:
            await slots.acquire(owner="a", priority=priority)
            order.append(name)
            slots.release("a")

        async with asyncio.TaskGroup() as group:
            for name, priority in (("late", 5), ("first", 1), ("second", 1), ("urgent", -1)):
                group.create_task(wait(name, priority))
            await _settle()
            assert slots.waiting == 4
            slots.release("a")
        assert order == ["urgent", "first", "second", "late"]
        assert (slots.busy, slots.waiting) == (0, 0)

    asyncio.run(scenario())


def test_an_owner_at_its_half_lets_others_go_first() -> None:
    async def scenario() -> None:
        slots = Slots(4)
        for _ in range(4):
            await slots.acquire(owner="a", priority=0)
        mine = asyncio.create_task(slots.acquire(owner="a", priority=-9))
        other = asyncio.create_task(slots.acquire(owner="b", priority=9))
        await _settle()
        slots.release("a")
        await other
        assert not mine.done()
        slots.release("a")
        await mine

    asyncio.run(scenario())


def test_cancelled_waiters_lose_no_slot() -> None:
    async def scenario() -> None:
        slots = Slots(1)
        await slots.acquire(owner="a", priority=0)
        waiting = asyncio.create_task(slots.acquire(owner="b", priority=0))
        granted = asyncio.create_task(slots.acquire(owner="c", priority=1))
        await _settle()
        waiting.cancel()
        await _settle()
        slots.release("a")
        granted.cancel()
        await asyncio.wait((waiting, granted))
        assert (slots.busy, slots.waiting) == (0, 0)
        await slots.acquire(owner="d", priority=0)
        assert slots.busy == 1

    asyncio.run(scenario())


def test_release_by_a_stranger_is_an_error() -> None:
    async def scenario() -> None:
        slots = Slots(1)
        await slots.acquire(owner="a", priority=0)
        with pytest.raises(ValueError, match="no slot is held by b"):
            slots.release("b")

    asyncio.run(scenario())


def test_a_favoured_owner_goes_first_above_its_half_too() -> None:
    async def scenario() -> None:
        slots, order = Slots(2), []
        for _ in range(2):
            await slots.acquire(owner="a", priority=0)

        async def wait(owner: str, priority: float) -> None:
            await slots.acquire(owner=owner, priority=priority)
            order.append(owner)
            await _settle()
            slots.release(owner)

        async with asyncio.TaskGroup() as group:
            for owner, priority in (("a", 0), ("b", 9), ("a", 0), ("b", 9), ("b", 9)):
                group.create_task(wait(owner, priority))
            await _settle()
            slots.favour("b", True)
            for _ in range(2):
                slots.release("a")
            await _settle()
            slots.favour("b", False)
        assert order[:2] == ["b", "b"]
        assert sorted(order) == ["a", "a", "b", "b", "b"]
        assert (slots.busy, slots.waiting) == (0, 0)

    asyncio.run(scenario())


def test_a_favoured_owner_whose_waiters_were_cancelled_holds_nobody_up() -> None:
    async def scenario() -> None:
        slots = Slots(1)
        await slots.acquire(owner="a", priority=0)
        given_up = asyncio.create_task(slots.acquire(owner="b", priority=0))
        waiting = asyncio.create_task(slots.acquire(owner="c", priority=5))
        await _settle()
        slots.favour("b", True)
        given_up.cancel()
        slots.release("a")
        await asyncio.wait_for(waiting, 5)

    asyncio.run(scenario())


def test_short_programs_are_handed_ahead_and_long_ones_are_not() -> None:
    async def scenario() -> None:
        slots = Slots(2, ahead=3)
        waiting = [asyncio.create_task(slots.acquire(owner=n, priority=0)) for n in range(8)]
        await _settle()
        assert (slots.busy, slots.waiting, slots.is_ahead) == (2, 6, False)
        slots.release(0, ran_seconds=0.001)
        await _settle()
        assert [task.done() for task in waiting].count(True) == 6, "2 slots, 3 ahead, 1 ended"
        assert (slots.busy, slots.waiting, slots.is_ahead) == (2, 5, True)
        for owner in range(1, 5):
            slots.release(owner, ran_seconds=0.1)
        await _settle()
        assert (slots.busy, slots.waiting, slots.is_ahead) == (2, 1, False)

    asyncio.run(scenario())


@pytest.mark.parametrize("cause", ["favoured", "sure", "given back"])
def test_nothing_is_handed_ahead_while(cause: str) -> None:
    async def scenario() -> None:
        slots = Slots(2, ahead=3)
        await slots.acquire(owner="short", priority=0)
        slots.release("short", ran_seconds=0.001)
        for _ in range(4):
            await slots.acquire(owner="a", priority=0)
        assert slots.is_ahead
        if cause == "favoured":
            slots.favour("b", True)
        if cause == "given back":
            slots.hold_back()
        task = asyncio.create_task(slots.acquire(owner="b", priority=-1, is_sure=cause == "sure"))
        await _settle()
        assert not task.done()
        for _ in range(2):
            slots.release("a", ran_seconds=0.001)
        await _settle()
        assert not task.done(), "both slots are taken"
        slots.release("a", ran_seconds=0.001)
        await task
        assert (slots.busy, slots.is_ahead) == (2, False)
        other = asyncio.create_task(slots.acquire(owner="c", priority=0))
        await _settle()
        assert not other.done(), "a second task is not put behind it"
        slots.favour("b", False)
        slots.release("b", is_sure=cause == "sure")
        await other

    asyncio.run(scenario())


def test_a_task_given_back_comes_before_those_that_came_later() -> None:
    async def scenario() -> None:
        slots = Slots(1)
        turn = await slots.acquire(owner="a", priority=0)
        later = asyncio.create_task(slots.acquire(owner="b", priority=0))
        again = asyncio.create_task(slots.acquire(owner="a", priority=0, turn=turn))
        await _settle()
        slots.release("a")
        assert await again == turn
        assert not later.done()
        slots.release("a")
        await later

    asyncio.run(scenario())
