"""The end of a worker's parts: whatever one does, the others are closed too."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from workers.log import log
from workers.runtime.deadline import Deadline
from workers.runtime.worker_parts import WorkerParts

LEAST_SECONDS = 0.5
"""Seconds that a part has to close, also past the deadline."""


async def close_parts(parts: WorkerParts, deadline: Deadline) -> bool:
    """Close executor, sinks and letters, the recorder not; True when nothing raised."""
    is_clean = await _close("executor", parts.executor.close())
    left = max(LEAST_SECONDS, deadline.remaining_seconds())
    closed = await asyncio.gather(
        *(_close(f"sink {name}", lane.close(left)) for name, lane in parts.lanes.items())
    )
    left = max(LEAST_SECONDS, deadline.remaining_seconds())
    letters = asyncio.to_thread(parts.dead_letters.close, left)
    return await _close("dead letters", letters) and is_clean and all(closed)


async def _close(name: str, closing: Awaitable[object]) -> bool:
    try:
        await closing
    except Exception as exc:
        log.error("close_failed", part=name, error=str(exc), exc_info=exc)
        return False
    return True
