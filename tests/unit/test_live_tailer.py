"""The one reader for all live sockets goes on whatever a look brings."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import chain, repeat

import pytest

from workers.control_plane.live import tailer
from workers.control_plane.live.payloads import Cursor
from workers.control_plane.live.reading import Batch
from workers.control_plane.live.tailer import Tailer


def test_a_look_that_fails_is_told_to_all_and_the_next_goes_on_from_the_same_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    empty = Batch([], [], {"a": 1}, has_gap=False)
    looks: Iterator[Batch | Exception] = chain([empty, KeyError("kind")], repeat(empty))
    asked: list[Cursor | None] = []

    def read(cursor: Cursor | None) -> Batch:
        asked.append(cursor)
        found = next(looks)
        if isinstance(found, Exception):
            raise found
        return found

    async def three_looks() -> list[Batch | None]:
        told: asyncio.Queue[Batch | None] = asyncio.Queue()
        reader = Tailer()
        reader.join(told.put_nowait)
        try:
            async with asyncio.timeout(20):
                return [await told.get() for _ in range(3)]
        finally:
            reader.leave(told.put_nowait)

    monkeypatch.setattr(tailer, "read", read)
    monkeypatch.setattr(tailer, "POLL_SECONDS", 0.0)
    first, failed, last = asyncio.run(three_looks())
    assert (failed, asked[:3]) == (None, [None, {"a": 1}, {"a": 1}])
    assert first is not None
    assert last is not None
