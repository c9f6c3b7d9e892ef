"""Order of the tasks of one key in a partition: each waits for those of messages before its own.

A task has its turn from when it may start to its end, over all of its attempts and deliveries, so
the next one of its key finds the sinks as it left them. What takes the place of a failed task takes
its place in the order. The owner is the partition, for one epoch.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from workers.pipeline.life_cycle import LiveTask

Place = tuple[int, ...]
"""Lowest offset of its messages, number of its arrival; of a replacement then its number among
those of the task that it replaces."""


Chain = tuple[Sequence[LiveTask], Sequence[LiveTask]]
"""Tasks of one key that have their turn, and those that wait for it, in order: each of these ends
after all before it."""


@dataclass(slots=True, eq=False)
class _Waiting:
    place: Place
    live: LiveTask
    turn: asyncio.Future[None]

    def __lt__(self, other: _Waiting) -> bool:
        return self.place < other.place


@dataclass(slots=True, eq=False)
class _Key:
    waiting: list[_Waiting] = field(default_factory=list)
    """A heap, with those that left it since."""
    gone: int = 0
    """How many of them left."""
    started: dict[LiveTask, Place] = field(default_factory=dict)
    """Tasks that have their turn, in the order in which they got it."""


class KeyOrder:
    """Gives turns to the tasks that have a key; at most ``most`` of one key have it. Loop thread
    only."""

    __slots__ = ("_arrivals", "_held", "_keys", "_most", "_turns")

    def __init__(self, most: int) -> None:
        self._most = most
        self._keys: dict[str, _Key] = {}
        self._turns: dict[LiveTask, _Waiting] = {}
        self._held: set[str] = set()
        self._arrivals = 0

    @property
    def waiting_count(self) -> int:
        """How many tasks wait for their key."""
        return len(self._turns)

    def count(self, key: str) -> int:
        """How many unfinished tasks a key has."""
        of_key = self._keys.get(key)
        return 0 if of_key is None else len(of_key.started) + len(of_key.waiting) - of_key.gone

    def join(self, live: LiveTask, *, in_place_of: LiveTask | None = None) -> None:
        """A task takes its place in the order of its key; in the place of another, which has its
        turn yet: before all that come after that one."""
        key = live.task.key
        assert key is not None
        self._arrivals += 1
        place: Place = (live.task.source_offsets[0], self._arrivals)
        if in_place_of is not None and in_place_of.task.key == key:
            place = (*self._keys[key].started[in_place_of], self._arrivals)
        waiting = _Waiting(place, live, asyncio.get_running_loop().create_future())
        self._turns[live] = waiting
        heapq.heappush(self._keys.setdefault(key, _Key()).waiting, waiting)
        self._give_turns(key)

    async def turn(self, live: LiveTask) -> None:
        """Wait for the turn of a task that joined; it is given back by ``leave``."""
        if (waiting := self._turns.get(live)) is not None:
            await waiting.turn

    def leave(self, live: LiveTask) -> None:
        """The task ended, or never will: the next of its key has its turn. What takes its place
        has joined before."""
        key = live.task.key
        if key is None or (of_key := self._keys.get(key)) is None:
            return
        if self._turns.pop(live, None) is not None:
            of_key.gone += 1
            if 2 * of_key.gone > len(of_key.waiting):
                of_key.waiting = [each for each in of_key.waiting if each.live in self._turns]
                heapq.heapify(of_key.waiting)
                of_key.gone = 0
        of_key.started.pop(live, None)
        self._give_turns(key)

    def hold_key(self, key: str, is_wanted: bool) -> None:
        """Give no task of a key its turn, or again; those that have it go on."""
        (self._held.add if is_wanted else self._held.discard)(key)
        if key in self._keys:
            self._give_turns(key)

    def reason(self, live: LiveTask) -> str | None:
        """Return what a task waits for that has not its turn, in words; None: it has."""
        if live not in self._turns:
            return None
        return f"key {live.task.key}{', paused' if live.task.key in self._held else ''}"

    def followers(self, live: LiveTask) -> list[LiveTask]:
        """Return the tasks that wait for the end of this one, in order."""
        of_key = self._keys.get(live.task.key) if live.task.key is not None else None
        if of_key is None or live not in of_key.started:
            return []
        return self._waiting_of(of_key)

    def chains(self) -> Iterator[Chain]:
        """Return the unfinished tasks of each key for which somebody waits."""
        for of_key in self._keys.values():
            if waiting := self._waiting_of(of_key):
                yield list(of_key.started), waiting

    def _waiting_of(self, of_key: _Key) -> list[LiveTask]:
        return [each.live for each in sorted(of_key.waiting) if each.live in self._turns]

    def _give_turns(self, key: str) -> None:
        of_key = self._keys[key]
        while of_key.waiting and len(of_key.started) < self._most and key not in self._held:
            waiting = heapq.heappop(of_key.waiting)
            if self._turns.pop(waiting.live, None) is None:
                of_key.gone -= 1
                continue
            of_key.started[waiting.live] = waiting.place
            if not waiting.turn.done():  # Else it was cancelled, and leaves when it has ended.
                waiting.turn.set_result(None)
        if not of_key.started and of_key.gone == len(of_key.waiting):
            del self._keys[key]
