"""Deferred messages that are not due yet, of one partition. Pure: time is an argument."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from domain.origin import MessageOrigin

ItemT = TypeVar("ItemT")

MOST_HELD = 1000
"""Messages that one partition of the retry topic holds until they are due."""
HELD_SHARE = 0.25
"""Share of ``backpressure.high_bytes`` that all held messages of a worker may take besides it."""


@dataclass(slots=True)
class HeldBytes:
    """Bytes of all messages that a worker holds until they are due, and how many it may."""

    most_bytes: int
    bytes: int = 0

    @property
    def is_full(self) -> bool:
        """Whether no further message is to be fetched to be held."""
        return self.bytes >= self.most_bytes


@dataclass(slots=True)
class _Entry(Generic[ItemT]):
    origin: MessageOrigin
    size_bytes: int
    item: ItemT


@dataclass(slots=True)
class Holding(Generic[ItemT]):
    """Holds messages by due time, and lets no two lives of one message out at once.

    A message may stand in the topic twice: a worker died between writing it and its commit.
    """

    account: HeldBytes
    _due: list[tuple[float, int, _Entry[ItemT]]] = field(default_factory=list)
    _turns: int = 0
    _out: set[MessageOrigin] = field(default_factory=set)
    _behind: dict[MessageOrigin, list[_Entry[ItemT]]] = field(default_factory=dict)
    _bytes: int = 0
    _count: int = 0

    def add(self, item: ItemT, origin: MessageOrigin, due_at: float, size_bytes: int) -> None:
        """Hold a message until ``due_at``."""
        self._count += 1
        self._bytes += size_bytes
        self.account.bytes += size_bytes
        self._push(due_at, _Entry(origin, size_bytes, item))

    def _push(self, due_at: float, entry: _Entry[ItemT]) -> None:
        self._turns += 1
        heapq.heappush(self._due, (due_at, self._turns, entry))

    def take(self, now: float) -> ItemT | None:
        """Take out the message that was due first, if it is ``now``; None: none is."""
        while self._due and self._due[0][0] <= now:
            entry = heapq.heappop(self._due)[2]
            if entry.origin in self._out:
                self._behind.setdefault(entry.origin, []).append(entry)
                continue
            self._out.add(entry.origin)
            self._forget(entry)
            return entry.item
        return None

    def _forget(self, entry: _Entry[ItemT]) -> None:
        self._count -= 1
        self._bytes -= entry.size_bytes
        self.account.bytes -= entry.size_bytes

    def settled(self, origin: MessageOrigin) -> None:
        """A message that was taken out has its fate: the next life of it may come out."""
        self._out.discard(origin)
        for entry in self._behind.pop(origin, ()):
            self._push(float("-inf"), entry)

    def close(self) -> None:
        """Forget all: the epoch ended."""
        self.account.bytes -= self._bytes
        self._bytes = self._count = 0
        self._due.clear()
        self._behind.clear()

    @property
    def count(self) -> int:
        """Number of messages held."""
        return self._count

    @property
    def next_due_at(self) -> float | None:
        """Earliest due time; None: nothing is held that only waits for it."""
        return self._due[0][0] if self._due else None

    @property
    def is_full(self) -> bool:
        """Whether the partition rests until something is due: it holds ``MOST_HELD``, or the worker
        holds too many bytes and this partition some of them."""
        return self._count >= MOST_HELD or (self._count > 0 and self.account.is_full)

    def items(self) -> Iterator[ItemT]:
        """Return what is held, in no order."""
        yield from (entry.item for _, _, entry in self._due)
        yield from (entry.item for entries in self._behind.values() for entry in entries)
