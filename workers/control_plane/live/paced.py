"""A socket that only shows: let in once, sent no faster than acknowledged, ended with its right."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Protocol

import orjson
from channels.generic.websocket import AsyncWebsocketConsumer  # type: ignore[import-untyped]
from django.db import Error

from workers.control_plane.live.tailer import tell_failure

MAX_OUTSTANDING = 2
MAX_ANSWER_BYTES = 256
FRAME_SECONDS = 0.25
ACK_SECONDS = 20.0
LOOK_SECONDS = 1.0
MALFORMED, REFUSED, UNKNOWN, TOO_SLOW, BROKEN, AWAY = 4400, 4401, 4404, 4408, 4500, 4503


class Pass(Protocol):
    """Right to look on, judged anew while the socket is open; without any wait to read."""

    code: int | None
    """None while it holds; else the close code that tells why it ended."""

    def give_back(self) -> None:
        """Hear that the socket is closed."""


Admit = Callable[[dict[str, Any]], Awaitable[Pass | int]]
"""Whether a socket may open: its pass, or the close code of its refusal."""

logger = logging.getLogger("drakkar.live")


class PacedConsumer(AsyncWebsocketConsumer):  # type: ignore[misc]
    """``admit(scope)`` is asked at connect; its pass is looked at before each frame, and each
    second of a wait. Frames are numbered; the client answers ``{"ack": n}``."""

    def __init__(self, admit: Admit) -> None:
        super().__init__()
        self._admit = admit
        self._pass: Pass | None = None
        self._sender: asyncio.Task[None] | None = None
        self._acknowledged = asyncio.Event()
        self._sent = self._acked = 0

    async def connect(self) -> None:
        """Accept those who may look."""
        admitted = await self._admit(self.scope)
        if isinstance(admitted, int):
            await self.close(admitted)
            return
        self._pass = admitted
        if (code := self._asked()) is not None:
            await self.close(code)
            return
        await self.accept()
        self._sender = asyncio.create_task(self._send_all())
        self._sender.add_done_callback(tell_failure)

    async def disconnect(self, code: int) -> None:
        """Give the pass back, and stop sending."""
        if self._pass is not None:
            self._pass.give_back()
        if self._sender is not None:
            self._sender.cancel()

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        """``{"ack": n}``: the client has taken in all frames up to number n."""
        try:
            if text_data is None or len(text_data) > MAX_ANSWER_BYTES:
                raise ValueError("expected a short text")
            self._acked = min(self._sent, int(orjson.loads(text_data)["ack"]))
        except (ValueError, TypeError, KeyError):
            await self.close(MALFORMED)
            return
        self._acknowledged.set()

    def _asked(self) -> int | None:
        """Read what the client asks for; a close code where there is no such thing."""
        raise NotImplementedError

    async def _send_until(self) -> int:
        """Send what comes; why it ended, as a close code. Raises Error."""
        raise NotImplementedError

    async def _send_all(self) -> None:
        try:
            code = await self._send_until()
        except Error as exc:
            logger.warning("live: Postgres is away: %s", exc)
            code = AWAY
        except Exception:
            logger.exception("live: a batch cannot be told")  # else the socket would be silent
            code = BROKEN
        await self.close(code)

    async def _paced(self, number: int, text: str) -> int | None:
        """Send a frame when it may be sent; if it may not be, a close code."""
        if (code := await self._hindrance(number)) is not None:
            return code
        await self.send(text_data=text)
        await asyncio.sleep(FRAME_SECONDS)
        return None

    async def _hindrance(self, number: int) -> int | None:
        """Wait until that frame may be sent; if it may not be, a close code.

        The pass is looked at meanwhile, and in a batch of many frames.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        while number - 1 - self._acked >= MAX_OUTSTANDING:
            if loop.time() - began >= ACK_SECONDS:
                return TOO_SLOW
            if not await self._acknowledges() and (code := self._ended()) is not None:
                return code
        return self._ended()

    async def _acknowledges(self) -> bool:
        """Tell whether an acknowledgement comes before the pass is looked at again."""
        self._acknowledged.clear()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._acknowledged.wait(), LOOK_SECONDS)
        return self._acknowledged.is_set()

    def _ended(self) -> int | None:
        return self._pass.code if self._pass is not None else REFUSED

    def _next(self) -> int:
        self._sent += 1
        return self._sent
