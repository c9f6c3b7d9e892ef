"""Law 3 for slots: tasks in flight never exceed the slots, whatever is cancelled meanwhile."""

from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from workers.executor.slots import Slots

STEPS = st.lists(
    st.tuples(st.sampled_from("acr"), st.integers(0, 30), st.sampled_from("xyz")), max_size=60
)


@settings(max_examples=150, deadline=None)
@given(count=st.integers(1, 5), steps=STEPS)
def test_tasks_in_flight_never_exceed_the_slots(
    count: int, steps: list[tuple[str, int, str]]
) -> None:
    async def scenario() -> None:
        slots = Slots(count)
        tasks: list[tuple[str, asyncio.Task[int]]] = []
        released: set[int] = set()
        for act, number, owner in steps:
            index = number % len(tasks) if tasks else 0
            if act == "a":
                waiter = slots.acquire(owner=owner, priority=number)
                tasks.append((owner, asyncio.create_task(waiter)))
            elif act == "c" and tasks and not tasks[index][1].done():
                tasks[index][1].cancel()
            elif act == "r" and tasks and index not in released and _holds(tasks[index][1]):
                released.add(index)
                slots.release(tasks[index][1].result(), tasks[index][0])
            if number % 2:
                await asyncio.sleep(0)
            assert slots.busy <= count
        for _ in range(3):
            await asyncio.sleep(0)
        held = [t.result() for i, (_, t) in enumerate(tasks) if i not in released and _holds(t)]
        assert len(held) == len(set(held)) == slots.busy
        assert slots.waiting == sum(not task.done() for _, task in tasks)
        assert slots.waiting == 0 or slots.busy == count
        for _, task in tasks:
            task.cancel()

    asyncio.run(scenario())


def _holds(task: asyncio.Task[int]) -> bool:
    return task.done() and not task.cancelled()


@settings(max_examples=150, deadline=None)
@given(
    count=st.integers(1, 6),
    wanted=st.lists(st.tuples(st.sampled_from("xyz"), st.integers(0, 5)), min_size=1, max_size=30),
    given_back=st.lists(st.integers(0, 30), max_size=40),
)
def test_a_free_slot_goes_by_priority_to_an_owner_below_its_half(
    count: int, wanted: list[tuple[str, int]], given_back: list[int]
) -> None:
    """Against a model: among the waiting, whoever is below half first, then priority, then age."""

    async def scenario() -> None:
        slots = Slots(count)
        running = [("first", await slots.acquire(owner="first", priority=0)) for _ in range(count)]
        got: list[tuple[int, int]] = []

        async def take(number: int, owner: str, priority: int) -> None:
            got.append((number, await slots.acquire(owner=owner, priority=priority)))

        async with asyncio.TaskGroup() as group:
            waiting = []
            for number, (owner, priority) in enumerate(wanted):
                group.create_task(take(number, owner, priority))
                waiting.append((priority, number, owner))
            await asyncio.sleep(0)
            for index in [*given_back, *range(len(wanted) + count)]:
                if not running:
                    continue
                owner, slot = running.pop(index % len(running))
                slots.release(slot, owner)
                await asyncio.sleep(0)
                if waiting:
                    held = [name for name, _ in running]
                    below = [one for one in waiting if held.count(one[2]) < max(1, count // 2)]
                    chosen = min(below or waiting)
                    assert got[-1][0] == chosen[1]
                    waiting.remove(chosen)
                    running.append((chosen[2], got[-1][1]))
                assert len(got) == len(wanted) - len(waiting)
            assert not waiting

    asyncio.run(scenario())
