"""One reader of the database for all sockets of this process; it reads only while one listens."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import ParamSpec, TypeVar

from channels.db import database_sync_to_async  # type: ignore[import-untyped]
from django.db import Error

from workers.control_plane.live.payloads import Cursor
from workers.control_plane.live.reading import Batch, read

POLL_SECONDS, REST_SECONDS = 0.4, 0.1
"""Between the begins of two looks, and between the end of one and the next at the least."""
CATCH_UP_THREADS = 2
P = ParamSpec("P")
T = TypeVar("T")
Listener = Callable[[Batch | None], None]
"""Takes a batch; None: the database is away, or holds what cannot be read."""

logger = logging.getLogger("drakkar.live")
_TAIL = ThreadPoolExecutor(1, thread_name_prefix="tailer")
_CATCH_UP = ThreadPoolExecutor(CATCH_UP_THREADS, thread_name_prefix="catch-up")


@dataclass(slots=True)
class Tailer:
    """Polls, and hands each batch to every listener, on the event loop."""

    listeners: set[Listener] = field(default_factory=set)
    _task: asyncio.Task[None] | None = None
    _cursor: Cursor | None = None

    def join(self, listener: Listener) -> None:
        """Add a listener; the first one starts the polling."""
        self.listeners.add(listener)
        if self._task is None or self._task.done():
            self._cursor = None
            self._task = asyncio.get_running_loop().create_task(self._poll())
            self._task.add_done_callback(tell_failure)

    def leave(self, listener: Listener) -> None:
        """Remove a listener; without any, polling ends."""
        self.listeners.discard(listener)
        if not self.listeners and self._task is not None:
            self._task.cancel()
            self._task = None

    async def _poll(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            batch = await self._read()
            for listener in tuple(self.listeners):
                listener(batch)
            await asyncio.sleep(max(REST_SECONDS, began + POLL_SECONDS - loop.time()))

    async def _read(self) -> Batch | None:
        try:
            batch = await _in(_TAIL, read, self._cursor)
        except Error as exc:
            logger.warning("live: Postgres is away: %s", exc)
            return None
        except Exception:
            logger.exception("live: cannot be read")  # a poll that ended would leave all in silence
            return None
        self._cursor = batch.cursor
        return batch


def tell_failure(task: asyncio.Task[None]) -> None:
    """Log what ended a task that nobody awaits."""
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("live: %s", error, exc_info=error)


async def catch_up(read_: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Read what one socket missed; others' reading does not hold the tailer up. Raises Error."""
    return await _in(_CATCH_UP, read_, *args, **kwargs)


async def _in(
    threads: ThreadPoolExecutor, read_: Callable[P, T], *args: P.args, **kwargs: P.kwargs
) -> T:
    ask = database_sync_to_async(read_, thread_sensitive=False, executor=threads)
    found: T = await ask(*args, **kwargs)
    return found


TAILER = Tailer()
