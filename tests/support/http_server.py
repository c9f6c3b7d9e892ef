"""A real HTTP server whose answers a test writes, byte for byte where it must."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from queue import SimpleQueue


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What came. ``headers`` have lower-case names; ``connection`` counts from 0."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    connection: int


Reply = bytes | Callable[[socket.socket], None]
"""The bytes of an answer, or what to do with the connection in place of one."""


def answer(status: int, *headers: str, body: bytes = b"") -> bytes:
    """An answer; keeps the connection alive."""
    lines = [f"HTTP/1.1 {status} Reason", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


@dataclass
class Server:
    """Gives the queued replies in order, then what ``decide`` says: 200 unless a test has more."""

    port: int
    scheme: str = "http"
    requests: list[Request] = field(default_factory=list)
    replies: SimpleQueue[Reply] = field(default_factory=SimpleQueue)
    ended: threading.Event = field(default_factory=threading.Event)
    decide: Callable[[Request], Reply] = lambda request: answer(200)

    @property
    def url(self) -> str:
        """Its root."""
        return f"{self.scheme}://127.0.0.1:{self.port}/"

    def reply(self, *replies: Reply) -> None:
        """Queue these."""
        for one in replies:
            self.replies.put(one)

    def serve(self, connection: socket.socket, number: int) -> None:
        """One connection until its end."""
        with connection, connection.makefile("rb") as source, suppress(OSError):
            while (line := source.readline()).strip():
                method, path, _ = line.decode().split(" ", 2)
                headers: dict[str, str] = {}
                while (line := source.readline()).strip():
                    name, _, value = line.decode("latin-1").partition(":")
                    headers[name.lower()] = value.strip()
                body = source.read(int(headers.get("content-length", "0")))
                request = Request(
                    method=method, path=path, headers=headers, body=body, connection=number
                )
                self.requests.append(request)
                reply = self.decide(request) if self.replies.empty() else self.replies.get()
                if callable(reply):
                    reply(connection)
                    return
                connection.sendall(reply)


@contextmanager
def serving(context: ssl.SSLContext | None = None) -> Iterator[Server]:
    """A server on a free loopback port; over TLS with a ``context``."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = Server(listener.getsockname()[1], "https" if context else "http")

    def accept() -> None:
        number = 0
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                if context is not None:
                    try:
                        connection = context.wrap_socket(connection, server_side=True)
                    except OSError:
                        continue
                threading.Thread(
                    target=server.serve, args=(connection, number), daemon=True
                ).start()
                number += 1

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield server
    finally:
        server.ended.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
