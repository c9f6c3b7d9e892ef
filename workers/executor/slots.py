"""Who may run next: numbered slots, waiting tasks by priority, no partition above half."""

from __future__ import annotations

import asyncio
import heapq
from collections import defaultdict
from collections.abc import Hashable

_Entry = tuple[float, int, "asyncio.Future[int]"]


class Slots:
    """A fixed number of slots. The lowest priority goes first, first come first served among
    equals.

    While others wait an owner gets no more than half of the slots (at least one), unless every
    waiting owner has its half: no slot stays empty while somebody waits.
    """

    def __init__(self, count: int) -> None:
        if count < 1:
            raise ValueError(f"slots: expected 1 or more, got {count}")
        self._count = count
        self._half = max(1, count // 2)
        self._free = list(range(count))
        self._holder: dict[int, Hashable] = {}
        self._held: defaultdict[Hashable, int] = defaultdict(int)
        self._queues: dict[Hashable, list[_Entry]] = {}
        self._heads: list[tuple[float, int, Hashable]] = []
        self._favoured: set[Hashable] = set()
        self._arrivals = 0
        self._waiting = 0

    @property
    def count(self) -> int:
        """How many slots there are."""
        return self._count

    @property
    def busy(self) -> int:
        """How many are taken."""
        return len(self._holder)

    @property
    def waiting(self) -> int:
        """How many tasks wait for one."""
        return self._waiting

    async def acquire(self, *, owner: Hashable, priority: float) -> int:
        """Wait for a slot; returns its number. Cancelled: no slot is taken or lost."""
        if self._free and not self._waiting:
            return self._take(owner)
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._enqueue(owner, priority, future)
        # A waiter cancelled in this turn still counts, though a slot may be free already.
        self._grant()
        try:
            return await future
        except asyncio.CancelledError:
            if future.cancelled():
                self._waiting -= 1
            else:
                self.release(future.result(), owner)
            raise

    def favour(self, owner: Hashable, is_wanted: bool) -> None:
        """Let an owner's tasks go before all others, above its half too, or no longer."""
        (self._favoured.add if is_wanted else self._favoured.discard)(owner)

    def release(self, slot: int, owner: Hashable) -> None:
        """Give a slot back. Raises ValueError when that owner does not hold it."""
        if slot not in self._holder or self._holder[slot] != owner:
            raise ValueError(f"slot {slot} is not held by {owner}")
        del self._holder[slot]
        self._held[owner] -= 1
        if not self._held[owner]:
            del self._held[owner]
        heapq.heappush(self._free, slot)
        self._grant()

    def _take(self, owner: Hashable) -> int:
        slot = heapq.heappop(self._free)
        self._holder[slot] = owner
        self._held[owner] += 1
        return slot

    def _enqueue(self, owner: Hashable, priority: float, future: asyncio.Future[int]) -> None:
        self._arrivals += 1
        self._waiting += 1
        queue = self._queues.setdefault(owner, [])
        entry = (priority, self._arrivals, future)
        heapq.heappush(queue, entry)
        if queue[0] is entry:
            heapq.heappush(self._heads, (priority, self._arrivals, owner))

    def _grant(self) -> None:
        while self._free:
            owner = self._choose()
            if owner is None:
                return
            future = heapq.heappop(self._queues[owner])[2]
            self._waiting -= 1
            self._show_head(owner)
            future.set_result(self._take(owner))

    def _choose(self) -> Hashable | None:
        """The owner whose first waiter goes next; at most three owners can be at their half."""
        for owner in self._favoured:
            if owner in self._queues and self._has_waiter(owner):
                return owner
        full: dict[Hashable, tuple[float, int, Hashable]] = {}
        chosen: Hashable | None = None
        while self._heads:
            head = heapq.heappop(self._heads)
            owner = head[2]
            if owner in full or not self._is_current(head):
                continue
            if self._held.get(owner, 0) < self._half:
                chosen = owner
                break
            full[owner] = head
        if chosen is None and full:
            chosen = next(iter(full))
            del full[chosen]
        for head in full.values():
            heapq.heappush(self._heads, head)
        return chosen

    def _has_waiter(self, owner: Hashable) -> bool:
        """Whether somebody waits for this owner; the cancelled are dropped."""
        self._show_head(owner)
        return owner in self._queues

    def _is_current(self, head: tuple[float, int, Hashable]) -> bool:
        """Whether a head still names its owner's first waiter; the cancelled are dropped."""
        queue = self._queues.get(head[2])
        if not queue or queue[0][1] != head[1]:
            return False
        if not queue[0][2].done():
            return True
        while queue and queue[0][2].done():
            heapq.heappop(queue)
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
