"""A spawn executor with room for all that a test runs at once."""

from __future__ import annotations

import os
from typing import Any

from workers.executor.base import Exit, Launch, Watcher
from workers.executor.spawn import SpawnExecutor

WANTED_LAUNCHER = "TEST_LAUNCHER"
"""The environment variable by which a test says which launcher its executors use."""


class Unwatched:
    """Nobody wants to know what a launch does."""

    def started(self, slot: int | None, taken_at: float, pid: int | None) -> None:
        """See ``Watcher``."""

    def progressed(self, progress: float | None, note: str) -> None:
        """See ``Watcher``."""

    def cut_short(self, ended: Exit) -> None:
        """See ``Watcher``."""


UNWATCHED = Unwatched()


class RoomyExecutor(SpawnExecutor):
    """Nothing waits for a slot here, so nothing is given back."""

    def __init__(self, **values: Any) -> None:
        values.setdefault("on_spawner_lost", lambda *_: None)
        self.wanted = os.environ.get(WANTED_LAUNCHER, "native")
        values["prefer_launcher"] = self.wanted
        super().__init__(spawners=1, slots=values.pop("slots", 64), **values)

    async def start(self) -> None:
        """Start it, and see that the launcher is the one wanted."""
        await super().start()
        assert WANTED_LAUNCHER not in os.environ or self.launcher == self.wanted

    async def run(self, launch: Launch, watcher: Watcher = UNWATCHED) -> Exit:
        """Run to the end and return it."""
        ended = await super().run(launch, watcher)
        assert ended is not None
        return ended
