"""A worker's side of live tails without a worker: the test writes what a task prints."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from django.db import connection

from domain.live_tail import Piece, TailFacts, TailState
from recorder.models import Run
from workers.runtime.live_tails import LiveTails, Tap

TASK = "7:100:0"
TURN_SECONDS = 0.1


class Follower:
    """Stands for the loop. ``standing`` is what each tap is told, ``begun`` hears of each."""

    def __init__(self) -> None:
        self.taps: dict[str, Tap] = {}
        self.left: list[str] = []
        self.standing = TailFacts(state=TailState.RUNNING, attempt=1, pid=4711)
        self.begun: Callable[[Tap], None] = lambda _: None

    def follow(self, tap: Tap) -> None:
        self.taps[tap.task_id] = tap
        self.begun(tap)

    def leave(self, tap: Tap) -> None:
        self.left.append(tap.task_id)

    def look(self, taps: Collection[Tap]) -> None:
        for tap in taps:
            tap.tell(self.standing)


class TailWorker:
    """A run's tails, and a clock that the test moves."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.now = 0.0
        self.follower = Follower()
        self.tails = LiveTails(
            UUID(str(run.id)), self.follower, lambda: self.now, lambda: 1000.0 + self.now
        )

    def stands(self, **facts: Any) -> None:
        """What the loop tells of each task from now on."""
        self.follower.standing = TailFacts(**{"state": TailState.RUNNING, "attempt": 1, **facts})

    def prints(
        self, text: bytes, offset: int = 0, stream: str = "stdout", task_id: str = TASK
    ) -> None:
        """A task writes; it has to be followed."""
        piece = Piece(attempt=1, stream=stream, offset=offset, data=text)
        self.follower.taps[task_id].write(piece)

    def turn(self, *, is_last: bool = False) -> None:
        """A quarter of a second passes."""
        self.now += 0.25
        self.tails.turn(is_last=is_last)


class BeatingWorker(TailWorker):
    """Takes its turns on a thread, as a worker does, while a block lasts."""

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    @contextmanager
    def beating(self) -> Iterator[None]:
        self._thread.start()
        yield
        self._ended.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._ended.wait(TURN_SECONDS):
            self.turn()
        self.turn(is_last=True)
        connection.close()
