"""Law 3 for slots: tasks in flight never exceed the slots, whatever is cancelled meanwhile."""

from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from workers.executor.slots import SHORT_SECONDS, Slots, mean_after

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
                slots.release(tasks[index][0])
            if number % 2:
                await asyncio.sleep(0)
            assert slots.busy <= count
        for _ in range(3):
            await asyncio.sleep(0)
        held = [t for i, (_, t) in enumerate(tasks) if i not in released and _holds(t)]
        assert len(held) == slots.busy
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
        running = ["first"] * count
        for owner in running:
            await slots.acquire(owner=owner, priority=0)
        got: list[int] = []

        async def take(number: int, owner: str, priority: int) -> None:
            await slots.acquire(owner=owner, priority=priority)
            got.append(number)

        async with asyncio.TaskGroup() as group:
            waiting = []
            for number, (owner, priority) in enumerate(wanted):
                group.create_task(take(number, owner, priority))
                waiting.append((priority, number, owner))
            await asyncio.sleep(0)
            for index in [*given_back, *range(len(wanted) + count)]:
                if not running:
                    continue
                slots.release(running.pop(index % len(running)))
                await asyncio.sleep(0)
                if waiting:
                    half = max(1, count // 2)
                    below = [one for one in waiting if running.count(one[2]) < half]
                    chosen = min(below or waiting)
                    assert got[-1] == chosen[1]
                    waiting.remove(chosen)
                    running.append(chosen[2])
                assert len(got) == len(wanted) - len(waiting)
            assert not waiting

    asyncio.run(scenario())


SHORT = st.floats(0, SHORT_SECONDS / 2)
LONG = st.floats(2 * SHORT_SECONDS, 1e6)


def _mean_of(seconds: list[float], mean_seconds: float = SHORT_SECONDS) -> float:
    for each in seconds:
        mean_seconds = mean_after(mean_seconds, each)
    return mean_seconds


@given(before=st.lists(LONG, max_size=50), after=st.lists(SHORT, min_size=40, max_size=60))
def test_forty_short_programs_make_the_mean_short(before: list[float], after: list[float]) -> None:
    assert _mean_of(before + after) < SHORT_SECONDS


@given(
    before=st.lists(SHORT, min_size=40, max_size=60),
    outlier=LONG,
    after=st.lists(LONG, min_size=20, max_size=30),
)
def test_long_programs_make_it_long_and_one_alone_does_not(
    before: list[float], outlier: float, after: list[float]
) -> None:
    assert _mean_of([*before, outlier]) < SHORT_SECONDS
    assert _mean_of(before + after) >= SHORT_SECONDS


@settings(max_examples=150, deadline=None)
@given(
    count=st.integers(1, 4),
    ahead=st.integers(0, 5),
    steps=st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 0.1)), max_size=60),
)
def test_places_never_exceed_slots_and_those_ahead(
    count: int, ahead: int, steps: list[tuple[str, float]]
) -> None:
    """All get a place at last, and while a sure one is out nobody gets more than the slots."""

    async def scenario() -> None:
        slots = Slots(count, ahead)
        running: list[tuple[str, bool]] = []
        ended = 0

        async def take(owner: str, is_sure: bool) -> None:
            await slots.acquire(owner=owner, priority=0, is_sure=is_sure)
            running.append((owner, is_sure))
            assert len(running) <= count + ahead
            if any(sure for _, sure in running):
                assert len(running) <= count

        async with asyncio.TaskGroup() as group:
            for owner, seconds in steps:
                group.create_task(take(owner, seconds > 0.09))
                await asyncio.sleep(0)
                if running and seconds < 0.05:
                    name, sure = running.pop(0)
                    slots.release(name, ran_seconds=seconds, is_sure=sure)
                    ended += 1
            while ended < len(steps):
                await asyncio.sleep(0)
                assert running, "somebody waits while all slots are free"
                name, sure = running.pop(0)
                slots.release(name, is_sure=sure)
                ended += 1
        assert (slots.busy, slots.waiting) == (0, 0)

    asyncio.run(scenario())
