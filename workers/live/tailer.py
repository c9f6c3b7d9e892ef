"""One reader of the database for all sockets of this process; it reads only while one listens."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from channels.db import database_sync_to_async  # type: ignore[import-untyped]
from django.db import Error
from django.db.models import Q

from recorder.models import Event, RunState
from workers.live.payloads import Cursor, event_payload
from workers.queries import beats, is_live

POLL_SECONDS = 0.5
BATCH_EVENTS = 500

logger = logging.getLogger("drakkar.live")


@dataclass(frozen=True, slots=True)
class Batch:
    """What one look at the database found. ``cursor`` stands after its events."""

    beats: list[RunState]
    events: list[dict[str, Any]]
    cursor: Cursor


@dataclass(slots=True)
class Tailer:
    """Polls, and hands each batch to every listener, on the event loop."""

    listeners: set[Callable[[Batch], None]] = field(default_factory=set)
    _task: asyncio.Task[None] | None = None
    _cursor: Cursor = field(default_factory=dict)

    def join(self, listener: Callable[[Batch], None]) -> None:
        """Add a listener; the first one starts the polling."""
        self.listeners.add(listener)
        if self._task is None or self._task.done():
            self._cursor = {}
            self._task = asyncio.get_running_loop().create_task(self._poll())

    def leave(self, listener: Callable[[Batch], None]) -> None:
        """Remove a listener; without any, polling ends."""
        self.listeners.discard(listener)
        if not self.listeners and self._task is not None:
            self._task.cancel()
            self._task = None

    async def _poll(self) -> None:
        while True:
            try:
                batch = await database_sync_to_async(read)(self._cursor)
            except Error as exc:
                logger.warning("live: Postgres is away: %s", exc)
            else:
                self._cursor = batch.cursor
                for listener in tuple(self.listeners):
                    listener(batch)
            await asyncio.sleep(POLL_SECONDS)


def read(cursor: Cursor) -> Batch:
    """Beats, and the events after the cursor. A run new to the cursor begins at its end."""
    found = beats()
    live = {str(beat.run_id): beat for beat in found if is_live(beat)}
    known = {run: seq for run, seq in cursor.items() if run in live}
    after = {run: _end_of(run) for run in live if run not in known} | known
    events = _events_after({run: known[run] for run in known})
    for event in events:
        after[str(event.run)] = max(after[str(event.run)], event.seq)
    names = {run: (beat.run.cluster, beat.run.worker) for run, beat in live.items()}
    return Batch(found, [event_payload(e, names[str(e.run)]) for e in events], after)


def _end_of(run: str) -> int:
    last = Event.objects.filter(run=UUID(run)).order_by("-seq").values_list("seq", flat=True)
    return last.first() or 0


def _events_after(cursor: Cursor) -> list[Event]:
    if not cursor:
        return []
    wanted = Q()
    for run, seq in cursor.items():
        wanted |= Q(run=UUID(run), seq__gt=seq)
    rows = Event.objects.defer("stdout", "stderr", "args", "data").filter(wanted)
    return list(rows.order_by("run", "seq")[:BATCH_EVENTS])


TAILER = Tailer()
