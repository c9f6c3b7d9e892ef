"""The live socket: it only shows, and only to those who still may look."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs

from channels.generic.websocket import AsyncWebsocketConsumer  # type: ignore[import-untyped]

from workers.live.payloads import Cursor, frame, state_body
from workers.live.tailer import TAILER, Batch

MAX_WAITING = 8
FRAME_SECONDS = 0.25
REFUSED = 4401
MayLook = Callable[[dict[str, Any]], Awaitable[bool]]


class LiveConsumer(AsyncWebsocketConsumer):  # type: ignore[misc]
    """``may_look(scope)`` is asked at connect and again before each batch."""

    def __init__(self, may_look: MayLook) -> None:
        super().__init__()
        self._may_look = may_look
        self._sender: asyncio.Task[None] | None = None

    async def connect(self) -> None:
        """Accept those who may look; the first batch goes as the snapshot."""
        if not await self._may_look(self.scope):
            await self.close(REFUSED)
            return
        query = parse_qs(self.scope["query_string"].decode("latin-1"))
        self._choice = query.get("cluster", [""])[0], query.get("worker", [""])[0]
        self._waiting: asyncio.Queue[Batch] = asyncio.Queue(MAX_WAITING)
        self._is_behind = False
        self._has_snapshot = False
        await self.accept()
        self._sender = asyncio.create_task(self._send_all())
        TAILER.join(self._take)

    async def disconnect(self, code: int) -> None:
        """Leave the tailer."""
        if self._sender is not None:
            TAILER.leave(self._take)
            self._sender.cancel()

    def _take(self, batch: Batch) -> None:
        try:
            self._waiting.put_nowait(batch)
        except asyncio.QueueFull:
            self._is_behind = True

    async def _send_all(self) -> None:
        while True:
            batch = await self._waiting.get()
            if not await self._may_look(self.scope):
                await self.close(REFUSED)
                return
            for text in self._frames(batch):
                await self.send(text_data=text)
                await asyncio.sleep(FRAME_SECONDS)

    def _frames(self, batch: Batch) -> list[str]:
        cursor: Cursor = batch.cursor
        if self._is_behind:
            self._is_behind, self._has_snapshot = False, False
            while not self._waiting.empty():
                self._waiting.get_nowait()
            return [frame("resync", cursor)]
        kind = "state" if self._has_snapshot else "snapshot"
        self._has_snapshot = True
        frames = [frame(kind, cursor, **state_body(batch.beats, self._choice))]
        events = [event for event in batch.events if self._wants(event)]
        return [*frames, frame("events", cursor, events=events)] if events else frames

    def _wants(self, event: dict[str, Any]) -> bool:
        cluster, worker = self._choice
        return cluster in ("", event["cluster"]) and worker in ("", event["worker"])
