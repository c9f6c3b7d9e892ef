"""Live socket: it only shows, and only to those who still may look."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import datetime
from typing import Any
from urllib.parse import parse_qs
from uuid import UUID

import orjson

from workers.control_plane.live.paced import AWAY, Admit, PacedConsumer
from workers.control_plane.live.payloads import (
    Cursor,
    Events,
    Frame,
    LiveEvent,
    Part,
    Shortest,
    Snapshot,
    State,
    fitting,
    parts_of,
    state_body,
    text_of,
    thinned,
)
from workers.control_plane.live.reading import Batch, between, moved, recent
from workers.control_plane.live.tailer import TAILER, catch_up

MAX_WAITING = 8
MAX_RUNS = 200
MAX_SEQ = 2**63 - 1
BEAT_SECONDS = 1.0
"""New beats are shown at most so often: ten workers beat at ten times."""
STATE_SECONDS = 2.0
"""A state comes at least so often: a client that hears nothing for longer knows it is cut off."""


class LiveConsumer(PacedConsumer):
    """``/ws/live``: states and events of the choice that its query names."""

    def __init__(self, admit: Admit, shortest: Shortest) -> None:
        super().__init__(admit)
        self._shortest = shortest
        self._waiting: asyncio.Queue[Batch | None] = asyncio.Queue(MAX_WAITING)
        self._begins = True
        self._is_behind = False
        self._told: Cursor = {}
        self._shown: tuple[datetime | None, ...] | None = None
        self._stated_at = 0.0

    def _asked(self) -> int | None:
        query = parse_qs(self.scope["query_string"].decode("latin-1"))
        self._choice = query.get("cluster", [""])[0], query.get("worker", [""])[0]
        self._wants_recent = "recent" in query
        self._cursor = cursor_of(query.get("cursor", [""])[0])
        return None

    def _take(self, batch: Batch | None) -> None:
        try:
            self._waiting.put_nowait(batch)
        except asyncio.QueueFull:
            self._is_behind = True

    async def _send_until(self) -> int:
        """The first batch goes as the snapshot, or as what was missed since the cursor."""
        TAILER.join(self._take)
        try:
            return await self._send_batches()
        finally:
            TAILER.leave(self._take)

    async def _send_batches(self) -> int:
        while (batch := await self._waiting.get()) is not None:
            if (code := self._ended()) is not None:
                return code
            for frame in await self._frames(batch):
                if (code := await self._paced(frame.n, text_of(frame))) is not None:
                    return code
        return AWAY

    async def _frames(self, batch: Batch) -> list[Frame]:
        if self._is_behind or batch.has_gap:
            return await self._resync(batch)
        if not self._begins:
            return self._news(batch)
        self._begins = False
        if self._cursor is None:
            return await self._snapshot(batch, "snapshot")
        missed = await catch_up(between, self._cursor, batch.cursor)
        if missed is None:
            return await self._resync(batch)
        self._told = self._cursor
        return self._news(batch, missed)

    def _news(self, batch: Batch, missed: list[LiveEvent] | None = None) -> list[Frame]:
        frames: list[Frame] = []
        cursor = self._reached(batch)
        if missed is None and self._cursor is None:
            news = batch.once(("news", self._choice), lambda: self._chosen(batch.events))
        else:
            news = self._chosen(batch.events if missed is None else missed)
        parts, left_out = news
        left_out += self._passed_over(batch)
        if parts or left_out:  # before the state: its cursor stands behind these events
            frames += self._told_in(parts or [Part()], self._told, cursor, left_out)
        self._told = cursor
        if self._cursor is not None and cursor == batch.cursor:
            self._cursor = None  # the tailer is where the client was: nothing comes twice
        beaten = tuple(beat.beat_at for beat in batch.beats)
        now = asyncio.get_running_loop().time()
        if now - self._stated_at >= (STATE_SECONDS if beaten == self._shown else BEAT_SECONDS):
            self._shown, self._stated_at = beaten, now
            frames.append(State(n=self._next(), cursor=cursor, **self._state_of(batch)))
        return frames

    def _chosen(self, events: Iterable[LiveEvent]) -> tuple[list[Part], int]:
        """Return what is sent of the events, in parts; and how many are left out for their number,
        without those that are never shown."""
        told = thinned((event for event in events if self._wants(event)), self._shortest)
        kept = fitting(told)
        return list(parts_of(kept)) if kept else [], len(told) - len(kept)

    def _passed_over(self, batch: Batch) -> int:
        runs = {str(beat.run_id): (beat.run.cluster, beat.run.worker) for beat in batch.beats}
        return sum(count for run, count in batch.left_out.items() if self._is_chosen(*runs[run]))

    def _state_of(self, batch: Batch) -> dict[str, Any]:
        return batch.once(("state", self._choice), lambda: state_body(batch.beats, self._choice))

    def _told_in(
        self, parts: list[Part], before: Cursor, after: Cursor, left_out: int
    ) -> list[Frame]:
        """Return a frame a part; the last one's cursor is ``after``, and it counts who is left
        out."""
        frames: list[Frame] = []
        for part in parts[:-1]:
            before = moved(before, part)
            frames.append(Events(n=self._next(), cursor=before, events=part))
        last = Events(n=self._next(), cursor=after, events=parts[-1], left_out=left_out)
        return [*frames, last]

    async def _resync(self, batch: Batch) -> list[Frame]:
        """Begin anew at the newest batch, whatever waits."""
        self._is_behind = self._begins = False
        self._cursor = None
        while not self._waiting.empty():
            batch = self._waiting.get_nowait() or batch
        return await self._snapshot(batch, "resync")

    async def _snapshot(self, batch: Batch, kind: Any) -> list[Frame]:
        events: list[LiveEvent] = []
        since: datetime | None = None
        if self._wants_recent:
            found, since = await self._recent(batch)
            events = thinned(found, self._shortest)
        self._shown = tuple(beat.beat_at for beat in batch.beats)
        self._told = batch.cursor
        first, *rest = parts_of(events)
        cursors: list[Cursor] = [{} for _ in rest] + [batch.cursor]
        body = self._state_of(batch)
        told = Snapshot(
            n=self._next(), cursor=cursors[0], events=first, since=since, type=kind, **body
        )
        later = zip(cursors[1:], rest, strict=True)
        return [
            told,
            *(Events(n=self._next(), cursor=at, events=part) for at, part in later),
        ]

    async def _recent(self, batch: Batch) -> tuple[list[LiveEvent], datetime | None]:
        """Return the latest events and since when they are whole (``reading.recent``); read once
        for all who begin at this batch with the same choice."""

        def read() -> asyncio.Task[tuple[list[LiveEvent], datetime | None]]:
            asked = catch_up(recent, batch.beats, batch.cursor, self._choice)
            return asyncio.create_task(asked)

        return await asyncio.shield(batch.once(("recent", self._choice), read))

    def _reached(self, batch: Batch) -> Cursor:
        # The tailer of another web process may be ahead of ours: never go back behind the client.
        known = self._cursor or {}
        return {run: max(seq, known.get(run, 0)) for run, seq in batch.cursor.items()}

    def _wants(self, event: LiveEvent) -> bool:
        is_known = event.seq <= (self._cursor or {}).get(event.run, 0)
        return not is_known and self._is_chosen(event.cluster, event.worker)

    def _is_chosen(self, cluster: str, worker: str) -> bool:
        chosen_cluster, chosen_worker = self._choice
        return chosen_cluster in ("", cluster) and chosen_worker in ("", worker)


def cursor_of(text: str) -> Cursor | None:
    """Return the cursor that a client kept; None without one, or when it is none of ours."""
    try:
        found = {str(UUID(run)): int(seq) for run, seq in orjson.loads(text).items()}
    except (ValueError, AttributeError, TypeError, OverflowError):
        return None
    is_ours = all(0 <= seq <= MAX_SEQ for seq in found.values())
    return found if is_ours and 0 < len(found) <= MAX_RUNS else None
