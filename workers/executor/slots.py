"""Who may run next: groups by weight, their tasks by priority, no partition above half, a few
handed ahead."""

from __future__ import annotations

import asyncio
import heapq
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Hashable
from itertools import count as numbers

from domain.group_rule import GroupRule
from workers.executor.group_queue import Entry, GroupQueue

SHORT_SECONDS = 0.02
"""Programs shorter than this, on average, are handed ahead."""
AHEAD = 16
"""How many tasks the spawners of a worker may hold beyond its slots."""

_WEIGHT = 1 / 16
_LONGEST_SECONDS = 4 * SHORT_SECONDS

NO_GROUP = ""
"""The group of tasks that name none: of weight 1, without a bound."""
MOST_SKIPPED = 64
"""Among so many groups a task is looked for whose partition is below its half."""
MOST_RESTING = 1024
"""Of so many groups without tasks it is remembered how far they are ahead of others."""


def no_rule(group: str) -> GroupRule:
    """Weight 1 and no bound."""
    return GroupRule()


def mean_after(mean_seconds: float, ran_seconds: float) -> float:
    """The running mean of how long programs run, one program later.

    A program counts for no more than 80 ms: one long one among many short ones changes nothing,
    five in a row do.
    """
    counted = min(ran_seconds, _LONGEST_SECONDS)
    return mean_seconds + (counted - mean_seconds) * _WEIGHT


class Slots:
    """A fixed number of slots.

    Of the groups that wait and may have one more place, the one that got least for its weight is
    next; of its tasks the one of the lowest priority, first come first served among equals.
    ``rule_of`` says what a group may have.

    While others wait an owner gets no more than half of the places (at least one), unless every
    waiting owner has its half: no slot stays empty while somebody waits who may have it.

    While programs are short there are ``ahead`` more places than slots: their tasks wait in the
    spawner for a slot, in the order in which they got their places. There are none while an owner
    is favoured, nor while somebody waits for a place, or has one, that must be a slot.
    """

    def __init__(
        self, count: int, ahead: int = 0, rule_of: Callable[[str], GroupRule] = no_rule
    ) -> None:
        if count < 1:
            raise ValueError(f"slots: expected 1 or more, got {count}")
        self._count = count
        self._ahead = ahead
        self._rule_of = rule_of
        self._mean_seconds = SHORT_SECONDS
        self._places = count
        self._taken = 0
        self._held: defaultdict[Hashable, int] = defaultdict(int)
        self._plain = GroupQueue(NO_GROUP, GroupRule())
        self._groups: dict[str, GroupQueue] = {NO_GROUP: self._plain}
        self._held_groups: set[str] = set()
        self._line: list[tuple[float, int, GroupQueue]] = []
        self._line_numbers = numbers()
        self._passed = 0.0
        self._resting: OrderedDict[str, float] = OrderedDict()
        self._favoured: set[Hashable] = set()
        self._sure = 0
        self._turns = 0
        self._waiting = 0

    @property
    def count(self) -> int:
        """How many slots there are."""
        return self._count

    @property
    def busy(self) -> int:
        """How many are taken."""
        return min(self._taken, self._count)

    @property
    def waiting(self) -> int:
        """How many tasks wait for one, those in the spawner included."""
        return self._waiting + max(0, self._taken - self._count)

    @property
    def waiting_for_group(self) -> int:
        """How many of them wait because their group may have no place more."""
        return sum(group.waiting for group in self._groups.values() if not group.is_open)

    @property
    def is_ahead(self) -> bool:
        """Whether the place given last is one in the spawner's queue."""
        return self._taken > self._count

    def reason(self, group: str) -> str | None:
        """Return what tasks of a group wait for, whoever else waits, in words; None: one may have
        a place."""
        found = self._groups.get(group)
        if found is None or found.is_open:
            return None
        why = "paused" if found.is_held else f"at its bound of {found.rule.max_running}"
        return f"group {group}, {why}"

    async def acquire(
        self,
        *,
        owner: Hashable,
        priority: float,
        group: str = NO_GROUP,
        turn: int | None = None,
        is_sure: bool = False,
    ) -> int:
        """Wait for a place; returns the turn, with which a task that was given back comes again
        before those that came later. ``is_sure``: the place must be a slot. Cancelled: no place is
        taken or lost."""
        if turn is None:
            self._turns += 1
            turn = self._turns
        self._want_sure(is_sure)
        if (
            not self._waiting
            and self._taken < self._places
            and (not group or self._group(group).is_open)
        ):
            self._take(owner, group)
            return turn
        queue = self._group(group)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._enqueue(queue, owner, (priority, turn, future))
        # A waiter cancelled in this turn still counts, though a slot may be free already.
        self._grant()
        try:
            await future
        except asyncio.CancelledError:
            if future.cancelled():
                self._waiting -= 1
                queue.cancelled(owner)
                self._forget_idle(queue)
                self._want_sure(is_sure, -1)
            else:
                self.release(owner, group=group, is_sure=is_sure)
            raise
        return turn

    def release(
        self,
        owner: Hashable,
        *,
        group: str = NO_GROUP,
        ran_seconds: float | None = None,
        is_sure: bool = False,
    ) -> None:
        """Give a place back, and tell how long its program ran; None: unknown. Raises ValueError
        when that owner or that group holds none."""
        if owner not in self._held:
            raise ValueError(f"no slot is held by {owner}")
        if group:
            self._give_back(group)
        if ran_seconds is not None:
            self._mean_seconds = mean_after(self._mean_seconds, ran_seconds)
        self._taken -= 1
        self._held[owner] -= 1
        if not self._held[owner]:
            del self._held[owner]
        self._want_sure(is_sure, -1)
        self._count_places()
        self._grant()

    def hold_back(self) -> None:
        """Hand nothing ahead until programs have shown again that they are short: one handed ahead
        found no slot."""
        self._mean_seconds = _LONGEST_SECONDS
        self._count_places()

    def favour(self, owner: Hashable, is_wanted: bool) -> None:
        """Let an owner's tasks go before all others, above its half too, or no longer; bounds of
        groups hold for them as well."""
        (self._favoured.add if is_wanted else self._favoured.discard)(owner)
        self._count_places()

    def hold_group(self, name: str, is_wanted: bool) -> None:
        """Start no task of a named group, or again; what runs goes on."""
        (self._held_groups.add if is_wanted else self._held_groups.discard)(name)
        group = self._groups.get(name)
        if group is not None and name:
            group.is_held = is_wanted
            self._show_group(group)
            self._forget_idle(group)
            self._grant()

    @property
    def held_groups(self) -> frozenset[str]:
        """The groups of which no task is started."""
        return frozenset(self._held_groups)

    def _want_sure(self, is_sure: bool, change: int = 1) -> None:
        if is_sure:
            self._sure += change
            self._count_places()

    def _count_places(self) -> None:
        is_ahead = self._mean_seconds < SHORT_SECONDS and not self._favoured and not self._sure
        self._places = self._count + (self._ahead if is_ahead else 0)

    def _take(self, owner: Hashable, group: str) -> None:
        self._taken += 1
        self._held[owner] += 1
        if group:
            self._groups[group].running += 1

    def _enqueue(self, group: GroupQueue, owner: Hashable, entry: Entry) -> None:
        self._waiting += 1
        group.add(owner, entry)
        self._show_group(group)

    def _grant(self) -> None:
        while self._waiting and self._taken < self._places:
            found = self._choose()
            if found is None:
                return
            group, owner = found
            future = group.pop(owner)
            self._waiting -= 1
            self._charge(group)
            self._take(owner, group.name)
            self._show_group(group)
            future.set_result(None)

    def _choose(self) -> tuple[GroupQueue, Hashable] | None:
        """The group that goes next, and the owner of its task."""
        for owner in self._favoured:
            waiting = [g for g in self._groups.values() if g.is_open and g.has_waiter(owner)]
            if waiting:
                return min(waiting, key=lambda group: group.passed), owner
        half = max(1, self._places // 2)
        skipped: list[GroupQueue] = []
        chosen: GroupQueue | None = None
        owner = None
        while self._line and len(skipped) < MOST_SKIPPED:
            passed, _, group = heapq.heappop(self._line)
            if passed != group.listed_at:
                continue
            group.listed_at = None
            if not group.is_open:
                continue
            owner = group.first_below(self._held, half)
            if owner is not None:
                chosen = group
                break
            if group.has_queue:
                skipped.append(group)
        if chosen is None and skipped:
            chosen = skipped.pop(0)
            owner = chosen.first()
        for group in skipped:
            self._show_group(group)
        return None if chosen is None else (chosen, owner)

    # -- groups --------------------------------------------------------------------------------

    def _group(self, name: str) -> GroupQueue:
        group = self._groups.get(name)
        if group is None:
            passed = self._resting.pop(name, 0.0)
            group = self._groups[name] = GroupQueue(name, self._rule_of(name), passed)
            group.is_held = name in self._held_groups
        return group

    def _show_group(self, group: GroupQueue) -> None:
        """Have it stand in the line of groups if somebody of it waits and may have a place."""
        if group.listed_at is None and group.has_queue and group.is_open:
            # What it did not use while it had nobody waiting, or was at its bound, is lost to it.
            group.passed = max(group.passed, self._passed)
            group.listed_at = group.passed
            heapq.heappush(self._line, (group.passed, next(self._line_numbers), group))

    def _charge(self, group: GroupQueue) -> None:
        self._passed = max(self._passed, group.passed)
        group.passed += 1.0 / group.rule.weight
        group.listed_at = None

    def _give_back(self, name: str) -> None:
        group = self._groups.get(name)
        if group is None or not group.running:
            raise ValueError(f"no slot is held by group {name}")
        group.running -= 1
        self._show_group(group)
        self._forget_idle(group)

    def _forget_idle(self, group: GroupQueue) -> None:
        """Groups are named by data: of one without tasks nothing is kept but how far it is ahead,
        so that one task at a time gets it no more than its weight."""
        if not group.is_idle or group is self._plain:
            return
        del self._groups[group.name]
        if not self._waiting:
            self._begin_anew()
        elif group.passed > self._passed:
            self._resting[group.name] = group.passed
            if len(self._resting) > MOST_RESTING:
                self._resting.popitem(last=False)

    def _begin_anew(self) -> None:
        """Nobody waits: nobody is ahead of others."""
        self._resting.clear()
        for _, _, group in self._line:
            group.listed_at = None
        self._line.clear()
