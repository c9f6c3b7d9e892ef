"""A TCP proxy on loopback that passes, stalls, ends, or cuts connections at a named moment."""

from __future__ import annotations

import select
import socket
import threading
from contextlib import suppress
from dataclasses import dataclass

from integration.services.ports import LOOPBACK

CHUNK_BYTES = 65536
LOOK_SECONDS = 0.02
CONNECT_SECONDS = 5.0
JOIN_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Pass:
    """Bytes go through."""


@dataclass(frozen=True, slots=True)
class Stall:
    """Bytes stay where they are; connections stay open."""


@dataclass(frozen=True, slots=True)
class CutAfter:
    """The connection ends once it has sent so many more bytes to the server."""

    sent_bytes: int


@dataclass(frozen=True, slots=True)
class CutBeforeReply:
    """The connection ends instead of a reply that holds ``mark``: the server has done its work."""

    mark: bytes


@dataclass(frozen=True, slots=True)
class Away:
    """Connections end, new ones at once: as if the server were stopped."""


Fault = Pass | Stall | Away | CutAfter | CutBeforeReply


class Proxy:
    """Stands before one server; a cut happens once, then bytes pass again.

    ``rewritten`` replaces bytes of replies by as many others: for servers that tell their address.
    """

    def __init__(self, host: str, port: int, rewritten: tuple[bytes, bytes] | None = None) -> None:
        self.rewritten = rewritten
        self._target = (host, port)
        self._listener = socket.create_server((LOOPBACK, 0))
        self.port = int(self._listener.getsockname()[1])
        self._changed = threading.Condition()
        self._fault: Fault = Pass()
        self._cuts = 0
        self._is_closing = False
        self._threads = [threading.Thread(target=self._accept, name="proxy")]
        self._threads[0].start()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def set(self, fault: Fault) -> None:
        """From now on."""
        with self._changed:
            self._fault = fault

    @property
    def address(self) -> str:
        """``host:port``."""
        return f"{LOOPBACK}:{self.port}"

    @property
    def cuts(self) -> int:
        """How many connections were cut on purpose."""
        with self._changed:
            return self._cuts

    def close(self) -> None:
        """End every connection and thread."""
        with self._changed:
            self._is_closing = True
        for thread in self._threads:
            thread.join(JOIN_SECONDS)
        self._listener.close()

    def _accept(self) -> None:
        while not self._is_closing:
            if not select.select([self._listener], [], [], LOOK_SECONDS)[0]:
                continue
            client, _ = self._listener.accept()
            thread = threading.Thread(target=self._serve, args=(client,), name="proxy")
            self._threads.append(thread)
            thread.start()

    def _serve(self, client: socket.socket) -> None:
        with (
            client,
            suppress(OSError),
            socket.create_connection(self._target, CONNECT_SECONDS) as server,
        ):
            while not (self._is_closing or self._is_away()):
                if self._is_stalled():
                    continue
                for source in select.select([client, server], [], [], LOOK_SECONDS)[0]:
                    chunk = source.recv(CHUNK_BYTES)
                    if not chunk or not self._forward(chunk, client, server, source):
                        return

    def _is_away(self) -> bool:
        with self._changed:
            return isinstance(self._fault, Away)

    def _is_stalled(self) -> bool:
        with self._changed:
            if isinstance(self._fault, Stall):
                self._changed.wait(LOOK_SECONDS)
                return True
            return False

    def _forward(
        self, chunk: bytes, client: socket.socket, server: socket.socket, source: socket.socket
    ) -> bool:
        """Pass a chunk on; False when the connection is to end here."""
        kept, is_cut = self._judge(chunk, is_reply=source is server)
        if source is server and self.rewritten is not None:
            kept = kept.replace(*self.rewritten)
        (client if source is server else server).sendall(kept)
        return not is_cut

    def _judge(self, chunk: bytes, *, is_reply: bool) -> tuple[bytes, bool]:
        """What of the chunk passes, and whether the connection is cut after it."""
        with self._changed:
            match self._fault:
                case CutAfter(sent_bytes=limit) if not is_reply and len(chunk) >= limit:
                    kept = chunk[:limit]
                case CutAfter(sent_bytes=limit) if not is_reply:
                    self._fault = CutAfter(limit - len(chunk))
                    return chunk, False
                case CutBeforeReply(mark=mark) if is_reply and mark in chunk:
                    kept = b""
                case _:
                    return chunk, False
            self._fault, self._cuts = Pass(), self._cuts + 1
            return kept, True
