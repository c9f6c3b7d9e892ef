"""Bounds what one web process does at once: who finds it full is told when to come again.

Each request is a thread, and most take a connection to Postgres. They get a place first; a place
is held until the view has ended, though its reader has left. ``/healthz`` and static files, which
need no connection, have places of their own.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from functools import cache
from http import HTTPStatus
from typing import Any

from django.template.loader import render_to_string

from drakkar_site.config.tree import WebConfig
from drakkar_site.pacing import ROOM, Room

HEALTH = "/healthz"
STATIC = "/static/"
MAX_HEALTH, MAX_STATIC = 16, 32
MAX_SENDING, MAX_STATIC_SENDING = 200, 50
"""Answers that are on their way in parts: long pages and files; those that need no login."""
RETRY_SECONDS = 5
TOO_BUSY = "The control plane serves as many as it can just now. Try again in a few seconds."
Scope = dict[str, Any]
Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]


class Places:
    """So many requests at once; some more wait, for so long. ``sending`` counts answers that are
    on their way in parts, of which there are ``max_sending`` besides."""

    def __init__(self, size: int, max_sending: int, web: WebConfig) -> None:
        self._free = asyncio.Semaphore(size)
        self._max_waiting = web.max_waiting
        self._wait_seconds = web.max_wait_seconds
        self._waiting = 0
        self.max_sending = max_sending
        self.sending = 0

    async def take(self) -> bool:
        """Whether a place was to be had; it has to be given back."""
        if self._free.locked() and self._waiting >= self._max_waiting:
            return False
        self._waiting += 1
        try:
            async with asyncio.timeout(self._wait_seconds):
                await self._free.acquire()
        except TimeoutError:
            return False
        finally:
            self._waiting -= 1
        return True

    def give_back(self) -> None:
        """Let the next one in."""
        self._free.release()


class Admission:
    """ASGI application before all others."""

    def __init__(self, application: Application, web: WebConfig) -> None:
        self._application = application
        self._pages = Places(web.max_requests, MAX_SENDING, web)
        self._health = Places(MAX_HEALTH, 0, web)
        self._files = Places(MAX_STATIC, MAX_STATIC_SENDING, web)
        self._running: set[asyncio.Task[None]] = set()
        _page(HTTPStatus.SERVICE_UNAVAILABLE)  # takes long the first time

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Have it answered, or answer 503."""
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        places = self._places_of(scope["path"])
        if not await places.take():
            await refuse(scope, send)
            return
        # The server cancels who stays on after its reader left; the view's thread cannot be
        # cancelled, and gives its connection back only when its request is let end.
        task = asyncio.create_task(self._answer(Answering(places, scope, send), receive))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        await asyncio.shield(task)

    def _places_of(self, path: str) -> Places:
        if path == HEALTH:
            return self._health
        return self._files if path.startswith(STATIC) else self._pages

    async def _answer(self, answering: Answering, receive: Receive) -> None:
        try:
            await self._application(answering.scope, receive, answering.send)
        finally:
            answering.end()


class Answering:
    """One request that has a place; with the first part of a long answer it gives it back."""

    def __init__(self, places: Places, scope: Scope, send: Send) -> None:
        self.scope = scope
        self._places = places
        self._has_place = True
        self._send = send
        self._start: Message | None = None
        self._is_sending = False
        self._room = Room()

    async def send(self, message: Message) -> None:
        """Pass a message on. Raises CancelledError, as for a reader who left, past the bound."""
        if message["type"] == "http.response.start":
            self._start = message  # kept until it is known whether the answer is long
            return
        if self._start is not None:
            await self._begin(self._start, is_long=bool(message.get("more_body")))
        if not message.get("more_body"):
            await self._send(message)
            return
        await self._send({**message, ROOM: self._room})
        await self._room.wait()

    async def _begin(self, start: Message, *, is_long: bool) -> None:
        self._start = None
        if is_long and self._places.sending >= self._places.max_sending:
            await refuse(self.scope, self._send)
            raise asyncio.CancelledError
        if is_long:
            self._places.sending += 1
            self._is_sending = True
            self._leave()
        await self._send(start)

    def end(self) -> None:
        """Give the place back: the view has ended."""
        self._leave()
        self._places.sending -= self._is_sending

    def _leave(self) -> None:
        if self._has_place:
            self._places.give_back()
            self._has_place = False


async def refuse(scope: Scope, send: Send) -> None:
    """503 with the time to come again: a document for programs, a page for people."""
    status = HTTPStatus.SERVICE_UNAVAILABLE
    is_machine = scope["path"].startswith("/api/") or scope["path"] == "/metrics"
    body = _document(scope["path"], status) if is_machine else _page(status)
    kind = "application/problem+json" if is_machine else "text/html; charset=utf-8"
    headers = {
        "Content-Type": kind,
        "Content-Length": str(len(body)),
        "Retry-After": str(RETRY_SECONDS),
        "Cache-Control": "no-store",
        "X-Frame-Options": "DENY",
    }
    encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status.value, "headers": encoded})
    await send({"type": "http.response.body", "body": body})


def _document(path: str, status: HTTPStatus) -> bytes:
    told = {
        "type": "about:blank",
        "title": status.phrase,
        "status": status.value,
        "detail": TOO_BUSY,
        "instance": path,
    }
    return json.dumps(told).encode()


@cache
def _page(status: HTTPStatus) -> bytes:
    return render_to_string("error.html", {"status": status.value, "detail": TOO_BUSY}).encode()
