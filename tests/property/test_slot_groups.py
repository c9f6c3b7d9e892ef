"""Groups share the slots by their weights, within their bounds, and no slot is lost over it."""

from __future__ import annotations

import asyncio
from collections import Counter
from itertools import combinations

from hypothesis import given, settings
from hypothesis import strategies as st

from domain.group_rule import GroupRule
from workers.executor.slots import MOST_RESTING, MOST_SKIPPED, Slots

WEIGHTS = st.sampled_from([0.01, 0.5, 1.0, 2.0, 3.5, 100.0])
GROUPS = st.sampled_from(["", "a", "b", "c"])
ACTS = st.sampled_from(["wait", "wait", "end", "end", "cancel", "hold", "let", "favour"])


class Model:
    """Slots, and what each of its tasks has by what was told of it alone."""

    def __init__(self, slots: Slots, rules: dict[str, GroupRule]) -> None:
        self.slots, self.rules = slots, rules
        self.running: list[tuple[str, str]] = []
        self.waiting: list[tuple[str, str, asyncio.Task[None]]] = []
        self.held: set[str] = set()

    def is_open(self, group: str) -> bool:
        most = self.rules.get(group, GroupRule()).max_running
        count = sum(1 for _, of in self.running if of == group)
        return group not in self.held and (most is None or count < most)

    async def take(self, owner: str, group: str, priority: float) -> None:
        may_have = self.is_open(group)
        await self.slots.acquire(owner=owner, priority=priority, group=group)
        assert may_have or self.is_open(group), f"{group} has more than it may have"
        self.running.append((owner, group))

    def wait(self, owner: str, group: str, priority: float) -> None:
        self.waiting.append((owner, group, asyncio.create_task(self.take(owner, group, priority))))

    def end(self, place: int) -> None:
        if self.running:
            owner, group = self.running.pop(place % len(self.running))
            self.slots.release(owner, group=group)

    def hold(self, group: str, is_wanted: bool) -> None:
        (self.held.add if is_wanted else self.held.discard)(group)
        self.slots.hold_group(group, is_wanted)

    async def settle(self) -> None:
        for _ in range(4):
            await asyncio.sleep(0)
        for *_, task in self.waiting:
            if task.done() and not task.cancelled():
                task.result()
        self.waiting = [one for one in self.waiting if not one[2].done()]


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 4),
    st.dictionaries(
        st.sampled_from("abc"),
        st.builds(GroupRule, max_running=st.none() | st.integers(1, 3), weight=WEIGHTS),
    ),
    st.lists(st.tuples(ACTS, GROUPS, st.sampled_from("xyz"), st.integers(0, 9)), max_size=50),
)
def test_bounds_hold_and_no_slot_is_empty_while_somebody_may_have_it(
    count: int, rules: dict[str, GroupRule], acts: list[tuple[str, str, str, int]]
) -> None:
    async def scenario() -> None:
        slots = Slots(count, 0, lambda name: rules.get(name, GroupRule()))
        model = Model(slots, rules)
        for act, group, owner, number in acts:
            if act == "wait":
                model.wait(owner, group, number)
            elif act == "end":
                model.end(number)
            elif act == "cancel" and model.waiting:
                model.waiting[number % len(model.waiting)][2].cancel()
            elif act in ("hold", "let") and group:
                model.hold(group, act == "hold")
            elif act == "favour":
                slots.favour(owner, number % 2 == 0)
            await model.settle()
            assert slots.busy == len(model.running) <= count
            assert slots.waiting == len(model.waiting)
            may_have = [group for _, group, _ in model.waiting if model.is_open(group)]
            assert slots.busy == count or may_have == []
            shut = [group for _, group, _ in model.waiting if not model.is_open(group)]
            assert slots.waiting_for_group == len(shut)
        for group in "abc":
            model.hold(group, False)
        while model.running or model.waiting:
            await model.settle()
            assert model.running, "somebody waits while all slots are free"
            model.end(0)
        assert (slots.busy, slots.waiting, slots.waiting_for_group) == (0, 0, 0)

    asyncio.run(scenario())


def _grants(weights: dict[str, float], count: int, slots: int = 1) -> list[str]:
    """The groups of the first grants, while all of them have more waiting than they get."""

    async def scenario() -> list[str]:
        found: list[str] = []
        pool = Slots(slots, 0, lambda name: GroupRule(weight=weights[name]))
        for _ in range(slots):
            await pool.acquire(owner=0, priority=0)

        async def take(group: str) -> None:
            await pool.acquire(owner=0, priority=0, group=group)
            found.append(group)
            pool.release(0, group=group)

        waiting = [asyncio.create_task(take(g)) for g in weights for _ in range(count)]
        await asyncio.sleep(0)
        pool.release(0)
        await asyncio.wait(waiting)
        return found[:count]

    return asyncio.run(scenario())


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from("abcdef"), WEIGHTS, min_size=2))
def test_groups_that_wait_get_of_the_starts_what_their_weights_are(
    weights: dict[str, float],
) -> None:
    """At each moment no two groups are further apart than a start of each of them."""
    seen: Counter[str] = Counter()
    for group in _grants(weights, 60):
        seen[group] += 1
        for one, other in combinations(weights, 2):
            apart = abs(seen[one] / weights[one] - seen[other] / weights[other])
            assert apart <= 1 / weights[one] + 1 / weights[other] + 1e-6


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from("abcdef"), st.sampled_from([1.0, 2.0, 4.0]), min_size=2))
def test_nobody_starves(weights: dict[str, float]) -> None:
    """Between two starts of a group each other one has its part for these, and one more."""
    most = {g: sum(w / weights[g] + 1 for o, w in weights.items() if o != g) for g in weights}
    waited: Counter[str] = Counter()
    for group in _grants(weights, 60):
        waited.update(weights.keys())
        waited[group] = 0
        assert all(waited[one] <= most[one] + 1 for one in weights)


def test_one_task_at_a_time_gets_a_group_no_more_than_its_weight() -> None:
    """It has nobody waiting whenever its task ends: what it had before is not forgotten."""

    async def scenario() -> Counter[str]:
        seen: Counter[str] = Counter()
        rules = {"heavy": GroupRule(weight=4.0), "light": GroupRule()}
        pool = Slots(1, 0, rules.__getitem__)
        await pool.acquire(owner=0, priority=0)

        async def take(group: str) -> None:
            await pool.acquire(owner=0, priority=0, group=group)
            if sum(seen.values()) < 100:
                seen[group] += 1
            pool.release(0, group=group)

        async def one_at_a_time() -> None:
            while sum(seen.values()) < 100:
                await take("light")

        tasks = [asyncio.create_task(take("heavy")) for _ in range(200)]
        tasks.append(asyncio.create_task(one_at_a_time()))
        await asyncio.sleep(0)
        pool.release(0)
        await asyncio.wait(tasks)
        return seen

    assert 18 <= asyncio.run(scenario())["light"] <= 22


def test_an_idle_group_saves_nothing_up() -> None:
    async def scenario() -> list[str]:
        found: list[str] = []
        pool = Slots(1)
        await pool.acquire(owner=0, priority=0)

        async def take(group: str) -> None:
            await pool.acquire(owner=0, priority=0, group=group)
            found.append(group)
            if len(found) == 50:
                late.extend(asyncio.create_task(take("late")) for _ in range(20))
                await asyncio.sleep(0)
            pool.release(0, group=group)

        late: list[asyncio.Task[None]] = []
        early = [asyncio.create_task(take("early")) for _ in range(100)]
        await asyncio.sleep(0)
        pool.release(0)
        await asyncio.wait(early)
        await asyncio.wait(late)
        return found[50:90]

    assert Counter(asyncio.run(scenario()))["late"] == 20
    assert "early" in asyncio.run(scenario())[:3]


def test_a_partition_at_its_half_lets_another_groups_task_go_first() -> None:
    async def scenario() -> None:
        pool = Slots(4, 0, lambda name: GroupRule(weight=100.0 if name == "heavy" else 1.0))
        for _ in range(4):
            await pool.acquire(owner="full", priority=0)
        heavy = [pool.acquire(owner="full", priority=0, group="heavy") for _ in range(3)]
        waiting = [asyncio.create_task(one) for one in heavy]
        other = asyncio.create_task(pool.acquire(owner="other", priority=9, group="light"))
        for _ in range(3):
            await asyncio.sleep(0)
        pool.release("full")
        await other
        assert not any(one.done() for one in waiting)
        for one in waiting:
            one.cancel()

    asyncio.run(scenario())


def test_names_made_of_data_leave_nothing_behind() -> None:
    """Each task has a group of its own, and others wait all the time."""

    async def scenario() -> None:
        pool = Slots(1)
        await pool.acquire(owner=0, priority=0)

        async def take(group: str) -> None:
            await pool.acquire(owner=0, priority=0, group=group)
            pool.release(0, group=group)

        waiting = [asyncio.create_task(take(f"group {n}")) for n in range(4 * MOST_RESTING)]
        await asyncio.sleep(0)
        last = asyncio.create_task(take("last"))
        pool.release(0)
        await asyncio.wait([*waiting, last])
        assert list(pool._groups) == [""]
        assert len(pool._resting) <= MOST_RESTING
        assert pool._line == []

    asyncio.run(scenario())


def test_thousands_of_groups_of_a_full_partition_hold_nobody_up() -> None:
    """The search for another partition's task is bounded, and then no slot stays empty."""

    async def scenario() -> None:
        pool = Slots(2)
        for _ in range(2):
            await pool.acquire(owner="full", priority=0)
        many = [
            asyncio.create_task(pool.acquire(owner="full", priority=0, group=f"group {n}"))
            for n in range(20 * MOST_SKIPPED)
        ]
        await asyncio.sleep(0)
        pool.release("full")
        await asyncio.sleep(0)
        assert sum(task.done() for task in many) == 1
        for task in many:
            task.cancel()

    asyncio.run(scenario())
