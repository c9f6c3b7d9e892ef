"""Tasks of one group that wait for a slot, and what the group may have."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Hashable, Mapping

from domain.group_rule import GroupRule

Entry = tuple[float, int, asyncio.Future[None]]
"""Priority, turn, and what is resolved when the task gets a place."""
_Head = tuple[float, int, Hashable]


class GroupQueue:
    """The waiting tasks of one group by owner; the lowest priority first, then the oldest turn."""

    __slots__ = (
        "_heads",
        "_queues",
        "is_held",
        "listed_at",
        "name",
        "passed",
        "rule",
        "running",
        "waiting",
    )

    def __init__(self, name: str, rule: GroupRule, passed: float = 0.0) -> None:
        self.name = name
        self.rule = rule
        self.passed = passed
        """Virtual time: each place moves it on by 1 / weight, and the group furthest behind is
        next."""
        self.listed_at: float | None = None
        """Its ``passed`` in the line of groups; None: it does not stand there."""
        self.running = 0
        self.waiting = 0
        self.is_held = False
        self._queues: dict[Hashable, list[Entry]] = {}
        self._heads: list[_Head] = []

    @property
    def is_open(self) -> bool:
        """Whether one more of its tasks may have a place."""
        most = self.rule.max_running
        return not self.is_held and (most is None or self.running < most)

    @property
    def is_idle(self) -> bool:
        """Whether nothing of it waits or runs."""
        return not self.running and not self.waiting

    @property
    def has_queue(self) -> bool:
        """Whether somebody waits, or did and was cancelled since."""
        return bool(self._queues)

    def add(self, owner: Hashable, entry: Entry) -> None:
        """One more waits."""
        self.waiting += 1
        queue = self._queues.setdefault(owner, [])
        heapq.heappush(queue, entry)
        if queue[0] is entry:
            heapq.heappush(self._heads, (*entry[:2], owner))

    def pop(self, owner: Hashable) -> asyncio.Future[None]:
        """Take out an owner's first waiter, which ``choose`` or ``has_waiter`` found."""
        future = heapq.heappop(self._queues[owner])[2]
        self.waiting -= 1
        self._show_head(owner)
        return future

    def cancelled(self, owner: Hashable) -> None:
        """A waiter of this owner gave up."""
        self.waiting -= 1
        self.has_waiter(owner)

    def first_below(self, held: Mapping[Hashable, int], half: int) -> Hashable | None:
        """Return the owner whose first waiter goes next, of those that hold less than their half;
        None: all that wait have it. At most three owners can be at their half."""
        full: dict[Hashable, _Head] = {}
        chosen: Hashable | None = None
        while self._heads:
            head = heapq.heappop(self._heads)
            owner = head[2]
            if owner in full or not self._is_current(head):
                continue
            if held.get(owner, 0) < half:
                chosen = owner
                break
            full[owner] = head
        for head in full.values():
            heapq.heappush(self._heads, head)
        return chosen

    def first(self) -> Hashable | None:
        """Return the owner whose first waiter goes next, whatever it holds; None: nobody waits."""
        while self._heads:
            head = heapq.heappop(self._heads)
            if self._is_current(head):
                return head[2]
        return None

    def has_waiter(self, owner: Hashable) -> bool:
        """Whether somebody waits for this owner; the cancelled are dropped."""
        queue = self._queues.get(owner)
        if queue and queue[0][2].done():
            self._show_head(owner)
        return owner in self._queues

    def _is_current(self, head: _Head) -> bool:
        """Whether a head still names its owner's first waiter; the cancelled are dropped."""
        queue = self._queues.get(head[2])
        if not queue or queue[0][1] != head[1]:
            return False
        if not queue[0][2].done():
            return True
        self._show_head(head[2])
        return False

    def _show_head(self, owner: Hashable) -> None:
        queue = self._queues[owner]
        while queue and queue[0][2].done():
            heapq.heappop(queue)
        if queue:
            heapq.heappush(self._heads, (queue[0][0], queue[0][1], owner))
        else:
            del self._queues[owner]
