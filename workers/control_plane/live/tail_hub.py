"""Live tails of this web process: each task is read once, however many sockets show it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from django.db import Error

from domain.live_tail import KEPT_BYTES, Piece, TailFacts, TailText, Written
from workers.control_plane.live.tail_reader import TailNews, TailReader, live_fleet
from workers.control_plane.live.tailer import catch_up, tell_failure

POLL_SECONDS = 0.4
MOST_TAILS = 100
"""Tasks that one web process follows at once."""
Name = tuple[str, str]
"""Cluster and id of a task."""

logger = logging.getLogger("drakkar.live")


class TooManyTails(Exception):
    """This web process follows as many tasks as it may."""


@dataclass(slots=True, eq=False)
class SharedTail:
    """A followed task with its latest output, for all its readers. Loop thread only.

    ``log`` holds numbered pieces, the oldest first; ``version`` changes with anything to show.
    ``is_away``: the database does not answer.
    """

    reader: TailReader
    readers: int = 0
    worker: str | None = None
    facts: TailFacts | None = None
    is_located: bool = False
    is_away: bool = False
    version: int = 0
    log: deque[tuple[int, Written]] = field(default_factory=deque)
    first: int = 0
    """Number of the oldest piece that belongs to what is shown now."""
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    _text: TailText = field(default_factory=TailText)
    _size: int = 0
    _next: int = 0

    def take(self, news: TailNews | None) -> None:
        """Take what a look found; None: the database is away."""
        self.is_away = news is None
        if news is not None:
            if news.is_moved and news.worker is not None:  # else what was seen last stays
                self._text = TailText()
                self._begin()
            self.worker, self.facts, self.is_located = news.worker, news.facts, True
            for piece in news.pieces:
                self._add(piece)
        self.version += 1
        self.changed.set()
        self.changed = asyncio.Event()

    def since(self, number: int) -> tuple[bool, list[Written], int]:
        """Return whether to begin anew, what to show after that piece, and the newest number."""
        is_anew = number < self.first or (bool(self.log) and number < self.log[0][0] - 1)
        if not is_anew:
            return False, [each for n, each in self.log if n > number], self._next
        begun: set[str] = set()
        found = []
        for _, each in self.log:
            is_first = each.stream not in begun
            found.append(replace(each, left_out=each.offset) if is_first else each)
            begun.add(each.stream)
        return True, found, self._next

    def _begin(self) -> None:
        self.log.clear()
        self._size = 0
        self._next += 1
        self.first = self._next

    def _add(self, piece: Piece) -> None:
        written = self._text.add(piece)
        if written is None:
            return
        if written.is_anew:
            self._begin()
        self._next += 1
        self.log.append((self._next, written))
        self._size += len(written.text)
        while self._size > KEPT_BYTES:
            self._size -= len(self.log.popleft()[1].text)


@dataclass(slots=True)
class TailHub:
    """Polls while a socket shows something; on the event loop."""

    tails: dict[Name, SharedTail] = field(default_factory=dict)
    _task: asyncio.Task[None] | None = None
    _ending: set[asyncio.Task[None]] = field(default_factory=set)

    def join(self, name: Name) -> SharedTail:
        """Return the tail of a task, which is then followed. Raises TooManyTails."""
        tail = self.tails.get(name)
        if tail is None:
            if len(self.tails) >= MOST_TAILS:
                raise TooManyTails
            tail = self.tails[name] = SharedTail(TailReader(*name))
        tail.readers += 1
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._poll())
            self._task.add_done_callback(tell_failure)
        return tail

    def leave(self, name: Name) -> None:
        """Have one reader less; without any, its lease is given back."""
        tail = self.tails[name]
        tail.readers -= 1
        if tail.readers:
            return
        del self.tails[name]
        ending = asyncio.get_running_loop().create_task(self._end(tail))
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)
        if not self.tails and self._task is not None:
            self._task.cancel()
            self._task = None

    async def _poll(self) -> None:
        while True:
            tails = tuple(self.tails.values())
            for tail, news in zip(tails, await _looked(tails), strict=True):
                tail.take(news)
            await asyncio.sleep(POLL_SECONDS)

    async def _end(self, tail: SharedTail) -> None:
        try:
            await catch_up(tail.reader.end)
        except Error as exc:
            logger.warning("live: a tail's lease is left to expire: %s", exc)


async def _looked(tails: Sequence[SharedTail]) -> Sequence[TailNews | None]:
    try:
        return await catch_up(_look_at_all, [tail.reader for tail in tails], time.monotonic)
    except Error as exc:
        logger.warning("live: Postgres is away: %s", exc)
    except Exception:
        logger.exception("live: tails cannot be read")
    return [None] * len(tails)


def _look_at_all(readers: Sequence[TailReader], now: Callable[[], float]) -> list[TailNews]:
    at = now()
    fleet = live_fleet() if any(reader.is_lost(at) for reader in readers) else None
    return [reader.look(at, fleet) for reader in readers]


TAILS = TailHub()
