"""A process that has imported the site and never serves it: every server of a test is cast from it.

A line with a folder on standard input ends the server of before and forks a new one, whose output
goes to that folder; the answer is its port. An empty line ends the server; the answer is 0. The
end of input ends both. A fork has no listener, connection, thread or loop of another.
"""

from __future__ import annotations

import importlib
import os
import signal
import socket
import sys
from pathlib import Path
from typing import NoReturn

from integration.services.ports import LOOPBACK

APPLICATION = "drakkar_site.asgi"


def main() -> None:
    """Answer lines until the input ends."""
    importlib.import_module(APPLICATION)
    server = 0
    for line in sys.stdin:
        if server:
            end(server)
        folder = line.strip()
        server, port = cast(Path(folder)) if folder else (0, 0)
        print(port, flush=True)
    if server:
        end(server)


def end(server: int) -> None:
    """Kill it and wait for its end."""
    os.kill(server, signal.SIGKILL)
    os.waitpid(server, 0)


def cast(folder: Path) -> tuple[int, int]:
    """A server's process number and port; it can be connected to at once."""
    with socket.create_server((LOOPBACK, 0)) as listener:
        if not (server := os.fork()):
            serve(folder, listener)
        return server, int(listener.getsockname()[1])


def serve(folder: Path, listener: socket.socket) -> NoReturn:
    """Be daphne, as its command would be."""
    files = (Path("/dev/null"), folder / "daphne.log", folder / "daphne.err")
    for number, name in enumerate(files):
        os.dup2(os.open(name, os.O_RDWR | os.O_CREAT), number)
    _forget_the_loop()
    command = importlib.import_module("daphne.cli").CommandLineInterface()
    command.run(["--fd", str(listener.fileno()), f"{APPLICATION}:application"])
    os._exit(0)


def _forget_the_loop() -> None:
    """Twisted's loop was made at import: a fork that used it would share its selector."""
    for name in ("twisted.internet.reactor", "daphne.server"):
        del sys.modules[name]


if __name__ == "__main__":
    main()
