"""``python -m integration.bench.listeners``: fifty live sockets, five of which never read.

A PostgreSQL and a daphne of its own, fed by ``integration.bench.live_feed``. Prints the server's
memory over the time, what was fed, and how the sockets ended; exit code 1 when the memory grew past
the bound.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import psutil
import psycopg
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidMessage

from integration.bench.worker import CHECKOUT
from integration.services import postgres
from integration.services.base import dying
from integration.services.ports import free_port

CLIENTS, DEAF = 50, 5
SECONDS = 300
SETTLED_SECONDS = 30
GROWTH_MIB = 24.0
EVERY_SECONDS = 5.0


@contextmanager
def running(argv: list[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A process of the project for the length of the block."""
    process = subprocess.Popen(dying(argv), cwd=CHECKOUT, text=True, **options)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def parser() -> argparse.ArgumentParser:
    """The command line."""
    root = argparse.ArgumentParser(prog="python -m integration.bench.listeners")
    root.add_argument("--seconds", type=int, default=SECONDS, help="how long to listen")
    return root


def main() -> int:
    """Serve, listen, watch; returns the exit code."""
    seconds = parser().parse_args().seconds
    with tempfile.TemporaryDirectory(prefix="drakkar-") as name:
        folder, port, page = Path(name), free_port(), free_port()
        os.environ["DRAKKAR_CONFIG"] = str(CHECKOUT / "drakkar.yaml")
        os.environ["DJANGO_SETTINGS_MODULE"] = "drakkar_site.settings"
        os.environ["DRAKKAR_SITE__DATABASE_URL"] = postgres.database_url(port)
        python = sys.executable
        serve = [python, "-m", "daphne", "-b", "127.0.0.1", "-p", str(page)]
        with postgres.running(folder / "postgres", port):
            migrate = [python, "manage.py", "migrate", "--verbosity", "0"]
            subprocess.run(migrate, cwd=CHECKOUT, check=True)
            feed = [python, "-m", "integration.bench.live_feed"]
            with (
                (folder / "log").open("w") as log,
                running([*serve, "drakkar_site.asgi:application"], stdout=log, stderr=log) as web,
                running(feed, stdout=subprocess.PIPE, stderr=log) as feeder,
            ):
                token = feeder.stdout.readline().strip() if feeder.stdout else ""
                address = f"ws://127.0.0.1:{page}/ws/live?token={token}"
                code = asyncio.run(_watch(address, psutil.Process(web.pid), seconds))
                print(f"{_fed(port):,} events were fed")
                return code


def _fed(port: int) -> int:
    with psycopg.connect(postgres.database_url(port)) as connection:
        row = connection.execute("SELECT sum(recorded_seq) FROM recorder_run").fetchone()
    return int(row[0]) if row else 0


async def _watch(address: str, server: psutil.Process, seconds: int) -> int:
    closed: list[int | None] = []
    frames = [0]
    async with asyncio.timeout(seconds + 60):
        sockets = [await _opened(address) for _ in range(CLIENTS)]
        readers = [asyncio.create_task(_read(each, frames, closed)) for each in sockets[DEAF:]]
        deaf = [asyncio.create_task(_end_of(each, closed)) for each in sockets[:DEAF]]
        sizes: list[tuple[float, float]] = []
        began = time.monotonic()
        while (at := time.monotonic() - began) < seconds:
            sizes.append((at, server.memory_info().rss / 2**20))
            await asyncio.sleep(EVERY_SECONDS)
        for task in [*readers, *deaf]:
            task.cancel()
        await asyncio.gather(*readers, *deaf, return_exceptions=True)
    return _verdict(sizes, frames[0], closed)


def _verdict(sizes: list[tuple[float, float]], frames: int, closed: list[int | None]) -> int:
    settled = [size for at, size in sizes if at >= SETTLED_SECONDS]
    growth = max(settled) - settled[0]
    print("RSS in MiB:", " ".join(f"{size:.0f}" for _, size in sizes))
    print(f"{frames:,} frames to {CLIENTS - DEAF} readers; closed by the server: {closed}")
    is_flat = growth <= GROWTH_MIB
    word = "flat" if is_flat else "GROWS"
    print(f"after {SETTLED_SECONDS} s it grew by {growth:.1f} MiB of {GROWTH_MIB:.0f}: {word}")
    return 0 if is_flat else 1


async def _opened(address: str) -> ClientConnection:
    for _ in range(200):
        try:
            # One message in the buffer: a client that does not read soon holds the server's writes.
            return await connect(address, max_size=None, max_queue=1)
        except (OSError, InvalidMessage):  # not up yet, or too busy to answer in time
            await asyncio.sleep(0.1)
    raise TimeoutError("daphne does not answer")


async def _read(socket: ClientConnection, frames: list[int], closed: list[int | None]) -> None:
    try:
        async for text in socket:
            frames[0] += 1
            await socket.send(orjson.dumps({"ack": orjson.loads(text)["n"]}).decode())
    except ConnectionClosed:
        pass
    closed.append(socket.close_code)


async def _end_of(socket: ClientConnection, closed: list[int | None]) -> None:
    await socket.wait_closed()
    closed.append(socket.close_code)


if __name__ == "__main__":
    raise SystemExit(main())
