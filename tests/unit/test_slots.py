"""Slots: order, the half rule, and cancelled waiters."""

from __future__ import annotations

import asyncio

import pytest

from workers.executor.slots import Slots


async def _settle() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


def test_lowest_free_number_first() -> None:
    async def scenario() -> None:
        slots = Slots(3)
        assert [await slots.acquire(owner="a", priority=0) for _ in range(3)] == [0, 1, 2]
        slots.release(1, "a")
        assert await slots.acquire(owner="b", priority=0) == 1

    asyncio.run(scenario())


def test_lowest_priority_first_then_arrival() -> None:
    async def scenario() -> None:
        slots, order = Slots(1), []
        slot = await slots.acquire(owner="a", priority=0)

        async def wait(name: str, priority: float) -> None:
            taken = await slots.acquire(owner="a", priority=priority)
            order.append(name)
            slots.release(taken, "a")

        async with asyncio.TaskGroup() as group:
            for name, priority in (("late", 5), ("first", 1), ("second", 1), ("urgent", -1)):
                group.create_task(wait(name, priority))
            await _settle()
            assert slots.waiting == 4
            slots.release(slot, "a")
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
        slots.release(2, "a")
        assert await other == 2
        slots.release(0, "a")
        assert await mine == 0

    asyncio.run(scenario())


def test_cancelled_waiters_lose_no_slot() -> None:
    async def scenario() -> None:
        slots = Slots(1)
        slot = await slots.acquire(owner="a", priority=0)
        waiting = asyncio.create_task(slots.acquire(owner="b", priority=0))
        granted = asyncio.create_task(slots.acquire(owner="c", priority=1))
        await _settle()
        waiting.cancel()
        await _settle()
        slots.release(slot, "a")
        granted.cancel()
        await asyncio.wait((waiting, granted))
        assert (slots.busy, slots.waiting) == (0, 0)
        assert await slots.acquire(owner="d", priority=0) == 0

    asyncio.run(scenario())


def test_release_by_a_stranger_is_an_error() -> None:
    async def scenario() -> None:
        slots = Slots(1)
        await slots.acquire(owner="a", priority=0)
        with pytest.raises(ValueError, match="not held"):
            slots.release(0, "b")

    asyncio.run(scenario())


def test_a_favoured_owner_goes_first_above_its_half_too() -> None:
    async def scenario() -> None:
        slots, order = Slots(2), []
        held = [await slots.acquire(owner="a", priority=0) for _ in range(2)]

        async def wait(owner: str, priority: float) -> None:
            taken = await slots.acquire(owner=owner, priority=priority)
            order.append(owner)
            await _settle()
            slots.release(taken, owner)

        async with asyncio.TaskGroup() as group:
            for owner, priority in (("a", 0), ("b", 9), ("a", 0), ("b", 9), ("b", 9)):
                group.create_task(wait(owner, priority))
            await _settle()
            slots.favour("b", True)
            for slot in held:
                slots.release(slot, "a")
            await _settle()
            slots.favour("b", False)
        assert order[:2] == ["b", "b"]
        assert sorted(order) == ["a", "a", "b", "b", "b"]
        assert (slots.busy, slots.waiting) == (0, 0)

    asyncio.run(scenario())


def test_a_favoured_owner_whose_waiters_were_cancelled_holds_nobody_up() -> None:
    async def scenario() -> None:
        slots = Slots(1)
        slot = await slots.acquire(owner="a", priority=0)
        given_up = asyncio.create_task(slots.acquire(owner="b", priority=0))
        waiting = asyncio.create_task(slots.acquire(owner="c", priority=5))
        await _settle()
        slots.favour("b", True)
        given_up.cancel()
        slots.release(slot, "a")
        assert await asyncio.wait_for(waiting, 5) == 0

    asyncio.run(scenario())
