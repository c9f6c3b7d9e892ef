"""Long answers go out as fast as their readers take them in.

Daphne hands every part of an answer to Twisted at once, which keeps what the reader has not taken:
a file of a gigabyte would lie in memory for the time that its reader needs. Admission sends a
``Room`` along with each part and waits in it before it asks for the next one.
"""

from __future__ import annotations

import asyncio
from typing import Any

from daphne import http_protocol

ROOM = "drakkar.room"
"""Key of an ASGI message that holds the room of its answer."""
STALLED_SECONDS = 60.0
"""A reader who takes nothing for so long is cut off: about 64 KiB are due in this time."""


class Room:
    """Room for the next part of an answer; Twisted calls the three methods of a push producer."""

    def __init__(self) -> None:
        self._has_room = asyncio.Event()
        self._has_room.set()
        self._has_left = False
        self.cut: Any = None
        """Ends the connection; set by who sends."""

    async def wait(self) -> None:
        """Until the reader has taken enough in; one who stalls is cut off.

        Raises CancelledError when the reader has left, which ends the answer as Django ends one.
        """
        try:
            async with asyncio.timeout(STALLED_SECONDS):
                await self._has_room.wait()
        except TimeoutError:
            if self.cut is not None:
                self.cut()
        if self._has_left:
            raise asyncio.CancelledError

    def pauseProducing(self) -> None:  # noqa: N802 - Twisted's name
        """Wait: the buffers are full."""
        self._has_room.clear()

    def resumeProducing(self) -> None:  # noqa: N802 - Twisted's name
        """Go on."""
        self._has_room.set()

    def stopProducing(self) -> None:  # noqa: N802 - Twisted's name
        """Make no more of it: the reader has left."""
        self._has_left = True
        self._has_room.set()


class Paced(http_protocol.WebRequest):  # type: ignore[misc]
    """A request that tells the room of its answer when its reader falls behind."""

    _room: Room | None = None

    def handle_reply(self, message: dict[str, Any]) -> None:
        """Send a part, after its room was made known to the connection."""
        room = message.get(ROOM)
        if room is not None and self._room is None and self.channel is not None:
            self._room = room
            room.cut = self.channel.transport.abortConnection
            self.registerProducer(room, True)
        super().handle_reply(message)

    def finish(self) -> None:
        """End the answer."""
        if self._room is not None and self.channel is not None:
            self.unregisterProducer()
        super().finish()

    def connectionLost(self, reason: Any) -> None:  # noqa: N802 - Twisted's name
        """Let who waits for room find out."""
        if self._room is not None:
            self._room.stopProducing()
        super().connectionLost(reason)

    def handle_exception(self, exception: BaseException) -> None:
        """An answer that breaks off is cut, or its reader would take it for whole."""
        if not self._response_started:
            super().handle_exception(exception)
        elif self.channel is not None:
            self.channel.transport.abortConnection()
