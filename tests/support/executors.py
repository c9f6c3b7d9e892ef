"""A spawn executor with room for all that a test runs at once."""

from __future__ import annotations

from typing import Any

from workers.executor.base import Exit, Launch, OnStart
from workers.executor.spawn import SpawnExecutor


def ignore_start(slot: int | None, taken_at: float) -> None:
    """Nobody wants to know."""


class RoomyExecutor(SpawnExecutor):
    """Nothing waits for a slot here, so nothing is given back."""

    def __init__(self, **values: Any) -> None:
        values.setdefault("on_spawner_lost", lambda *_: None)
        super().__init__(spawners=1, slots=64, **values)

    async def run(self, launch: Launch, on_start: OnStart = ignore_start) -> Exit:
        """Run to the end and return it."""
        ended = await super().run(launch, on_start)
        assert ended is not None
        return ended
