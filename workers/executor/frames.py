"""Messages between the worker and its spawners: length-prefixed marshal over a stream socket.

Standard library only: the spawner imports this too. Both ends run the same interpreter, which is
what makes marshal, by far the cheapest codec, safe here.
"""

from __future__ import annotations

import marshal
import socket
import struct
from typing import Any

START, CANCEL, RECALL, FOLLOW, UNFOLLOW = 0, 1, 2, 3, 4
"""Requests: ``(START, number, argv, env, stdin, cwd, timeout, grace, caps..., stall, limits,
bounds)``, ``(CANCEL, number, is_at_once)``, ``(RECALL, number)``, ``(FOLLOW, number, token)`` and
``(UNFOLLOW, number)``."""

HELLO, STARTED, ENDED, NOT_STARTED, GIVEN_BACK, RECALLED, PROGRESS, CHUNK, SIGNS = range(9)
"""Answers: the spawner is up; a process runs for a while; one ended; one could not be started; a
request found no slot, or was cancelled or recalled before it did; a recall is done; a program told
how far it is; a piece of what one that is followed writes; signs of life of one.

After HELLO the second item is the number of the request; of STARTED, ENDED and NOT_STARTED the
third is the slot, the fourth the time at which it was taken, the fifth the process on the host.
``(PROGRESS, number, progress, note)``, ``(CHUNK, number, token, stream, offset, data)``: with the
token of a FOLLOW its first answer for that stream, with 0 for all; ``(SIGNS, number, elapsed, cpu
seconds, bytes of memory, processes)``."""

EXITED, TIMED_OUT, OVER_LIMIT, CANCELLED, STALLED = 0, 1, 2, 3, 4
"""Why a process ended: by itself, or ended by the spawner for this reason."""

PERSIST, ASK = 10, 11
"""Requests: ``(PERSIST, program)`` before all others, see ``persistent_processes.Program``, and
``(ASK, number, line, timeout, grace, caps..., stall)``."""

REPLACED = 20
"""Answer: ``(REPLACED, slot, process on the host, cause, detail, requests served, seconds)`` of a
persistent process that ended."""

PROTOCOL, UNANSWERED = 30, 31
"""Why a request to a persistent process failed: the process broke the protocol; it ended before
its answer."""

_LENGTH = struct.Struct("<Q")


def encode(message: tuple[Any, ...]) -> bytes:
    """One frame. Raises ValueError for what marshal cannot hold."""
    body = marshal.dumps(message, 2)
    return _LENGTH.pack(len(body)) + body


class FrameReader:
    """Cuts a byte stream into messages."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, chunk: bytes) -> list[tuple[Any, ...]]:
        """Take in bytes; return the messages that are complete now."""
        self._buffer += chunk
        messages: list[tuple[Any, ...]] = []
        start, end = 0, len(self._buffer)
        with memoryview(self._buffer) as view:
            while end - start >= _LENGTH.size:
                body = start + _LENGTH.size
                stop = body + _LENGTH.unpack_from(view, start)[0]
                if stop > end:
                    break
                messages.append(marshal.loads(view[body:stop]))
                start = stop
        del self._buffer[:start]
        return messages


class FrameWriter:
    """Holds frames until a non-blocking socket takes them."""

    __slots__ = ("_frames", "_unsent")

    def __init__(self) -> None:
        self._frames: list[bytes] = []
        self._unsent = memoryview(b"")

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits to be sent."""
        return not (self._unsent or self._frames)

    def put(self, message: tuple[Any, ...]) -> int:
        """Queue one message; returns its size in bytes. Raises ValueError for what marshal cannot
        hold."""
        frame = encode(message)
        self._frames.append(frame)
        return len(frame)

    def flush(self, stream: socket.socket) -> bool:
        """Send what the socket takes; True when nothing is left. Raises OSError when it is
        broken."""
        while self._unsent or self._frames:
            if not self._unsent:
                self._unsent = memoryview(b"".join(self._frames))
                self._frames.clear()
            try:
                sent = stream.send(self._unsent)
            except BlockingIOError:
                return False
            self._unsent = self._unsent[sent:]
        return True
