"""Who may run next: waiting tasks by priority, no partition above half, a few handed ahead."""

from __future__ import annotations

import asyncio
import heapq
from collections import defaultdict
from collections.abc import Hashable

SHORT_SECONDS = 0.02
"""Programs shorter than this, on average, are handed ahead."""
AHEAD = 16
"""How many tasks the spawners of a worker may hold beyond its slots."""

_WEIGHT = 1 / 16
_LONGEST_SECONDS = 4 * SHORT_SECONDS

_Entry = tuple[float, int, asyncio.Future[None]]


def mean_after(mean_seconds: float, ran_seconds: float) -> float:
    """The running mean of how long programs run, one program later.

    A program counts for no more than 80 ms: one long one among many short ones changes nothing,
    five in a row do.
    """
    counted = min(ran_seconds, _LONGEST_SECONDS)
    return mean_seconds + (counted - mean_seconds) * _WEIGHT


class Slots:
    """A fixed number of slots. The lowest priority goes first, first come first served among
    equals.

    While others wait an owner gets no more than half of the places (at least one), unless every
    waiting owner has its half: no slot stays empty while somebody waits.

    While programs are short there are ``ahead`` more places than slots: their tasks wait in the
    spawner for a slot, in the order in which they got their places. There are none while an owner
    is favoured, nor while somebody waits for a place, or has one, that must be a slot.
    """

    def __init__(self, count: int, ahead: int = 0) -> None:
        if count < 1:
            raise ValueError(f"slots: expected 1 or more, got {count}")
        self._count = count
        self._ahead = ahead
        self._mean_seconds = SHORT_SECONDS
        self._places = count
        self._taken = 0
        self._held: defaultdict[Hashable, int] = defaultdict(int)
        self._queues: dict[Hashable, list[_Entry]] = {}
        self._heads: list[tuple[float, int, Hashable]] = []
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
    def is_ahead(self) -> bool:
        """Whether the place given last is one in the spawner's queue."""
        return self._taken > self._count

    async def acquire(
        self, *, owner: Hashable, priority: float, turn: int | None = None, is_sure: bool = False
    ) -> int:
        """Wait for a place; returns the turn, with which a task that was given back comes again
        before those that came later. ``is_sure``: the place must be a slot. Cancelled: no place is
        taken or lost."""
        if turn is None:
            self._turns += 1
            turn = self._turns
        self._want_sure(is_sure)
        if not self._waiting and self._taken < self._places:
            self._take(owner)
            return turn
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._enqueue(owner, (priority, turn, future))
        # A waiter cancelled in this turn still counts, though a slot may be free already.
        self._grant()
        try:
            await future
        except asyncio.CancelledError:
            if future.cancelled():
                self._waiting -= 1
                self._want_sure(is_sure, -1)
            else:
                self.release(owner, is_sure=is_sure)
            raise
        return turn

    def release(
        self, owner: Hashable, *, ran_seconds: float | None = None, is_sure: bool = False
    ) -> None:
        """Give a place back, and tell how long its program ran; None: unknown. Raises ValueError
        when that owner holds none."""
        if owner not in self._held:
            raise ValueError(f"no slot is held by {owner}")
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
        """Let an owner's tasks go before all others, above its half too, or no longer."""
        (self._favoured.add if is_wanted else self._favoured.discard)(owner)
        self._count_places()

    def _want_sure(self, is_sure: bool, change: int = 1) -> None:
        if is_sure:
            self._sure += change
            self._count_places()

    def _count_places(self) -> None:
        is_ahead = self._mean_seconds < SHORT_SECONDS and not self._favoured and not self._sure
        self._places = self._count + (self._ahead if is_ahead else 0)

    def _take(self, owner: Hashable) -> None:
        self._taken += 1
        self._held[owner] += 1

    def _enqueue(self, owner: Hashable, entry: _Entry) -> None:
        self._waiting += 1
        queue = self._queues.setdefault(owner, [])
        heapq.heappush(queue, entry)
        if queue[0] is entry:
            heapq.heappush(self._heads, (*entry[:2], owner))

    def _grant(self) -> None:
        while self._taken < self._places:
            owner = self._choose()
            if owner is None:
                return
            future = heapq.heappop(self._queues[owner])[2]
            self._waiting -= 1
            self._show_head(owner)
            self._take(owner)
            future.set_result(None)

    def _choose(self) -> Hashable | None:
        """The owner whose first waiter goes next; at most three owners can be at their half."""
        for owner in self._favoured:
            if owner in self._queues and self._has_waiter(owner):
                return owner
        half = max(1, self._places // 2)
        full: dict[Hashable, tuple[float, int, Hashable]] = {}
        chosen: Hashable | None = None
        while self._heads:
            head = heapq.heappop(self._heads)
            owner = head[2]
            if owner in full or not self._is_current(head):
                continue
            if self._held.get(owner, 0) < half:
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
