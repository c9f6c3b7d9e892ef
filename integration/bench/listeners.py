"""``python -m integration.bench.listeners``: fifty live sockets, five of which never read.

A PostgreSQL and a daphne of its own, fed by ``integration.bench.live_feed``. Prints how late events
come, the server's memory over the time, what was fed, and how the sockets ended; exit code 1 when
the memory grew past the bound.
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
from dataclasses import dataclass, field
from datetime import UTC, datetime
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
    root.add_argument("--workers", default="10", help="that tell")
    root.add_argument("--slots", default="64", help="of each; tasks under 0.5 s are not shown")
    root.add_argument("--rate", default="2000", help="events a second of all workers")
    return root


def main() -> int:
    """Serve, listen, watch; returns the exit code."""
    asked = parser().parse_args()
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
            feed = [python, "-m", "integration.bench.live_feed", "--rate", asked.rate]
            feed += ["--workers", asked.workers, "--slots", asked.slots]
            with (
                (folder / "log").open("w") as log,
                running([*serve, "drakkar_site.asgi:application"], stdout=log, stderr=log) as web,
                running(feed, stdout=subprocess.PIPE, stderr=log) as feeder,
            ):
                token = feeder.stdout.readline().strip() if feeder.stdout else ""
                address = f"ws://127.0.0.1:{page}/ws/live?token={token}"
                code = asyncio.run(_watch(address, psutil.Process(web.pid), asked.seconds))
                print(f"{_fed(port):,} events were fed")
                return code


def _fed(port: int) -> int:
    with psycopg.connect(postgres.database_url(port)) as connection:
        row = connection.execute("SELECT sum(recorded_seq) FROM recorder_run").fetchone()
    return int(row[0]) if row else 0


async def _watch(address: str, server: psutil.Process, seconds: int) -> int:
    closed: list[int | None] = []
    heard = Heard()
    async with asyncio.timeout(seconds + 60):
        sockets = [await _opened(address) for _ in range(CLIENTS)]
        readers = [asyncio.create_task(_read(each, heard, closed)) for each in sockets[DEAF:]]
        deaf = [asyncio.create_task(_end_of(each, closed)) for each in sockets[:DEAF]]
        sizes: list[tuple[float, float]] = []
        began = time.monotonic()
        while (at := time.monotonic() - began) < seconds:
            sizes.append((at, server.memory_info().rss / 2**20))
            heard.is_settled = at >= SETTLED_SECONDS
            await asyncio.sleep(EVERY_SECONDS)
        for task in [*readers, *deaf]:
            task.cancel()
        await asyncio.gather(*readers, *deaf, return_exceptions=True)
    heard.show()
    return _verdict(sizes, heard.frames, closed)


@dataclass(slots=True)
class Heard:
    """Frames of all readers; once settled, how old each event was when it came, in seconds,
    and how many events came and were said to be left out."""

    frames: int = 0
    events: int = 0
    left_out: int = 0
    size_bytes: int = 0
    is_settled: bool = False
    ages: list[float] = field(default_factory=list)

    def hear(self, text: str) -> int:
        """Take a frame in; returns its number."""
        frame = orjson.loads(text)
        self.frames += 1
        self.size_bytes += len(text)
        if self.is_settled and frame["type"] == "events":
            self.events += len(frame["events"])
            self.left_out += frame.get("left_out", 0)
            now = datetime.now(UTC)
            times = [datetime.fromisoformat(event["at"]) for event in frame["events"]]
            self.ages += [(now - at).total_seconds() for at in times]
        return int(frame["n"])

    def show(self) -> None:
        """Print the figures."""
        ages = sorted(self.ages)
        p50, p95 = (ages[int(len(ages) * part)] for part in (0.5, 0.95))
        print(f"seconds from an event to its reader: p50 {p50:.2f}, p95 {p95:.2f}")
        print(f"{self.events:,} events came, {self.left_out:,} were left out and said to be")
        print(f"{self.size_bytes / 2**20:,.0f} MiB of frames")


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


async def _read(socket: ClientConnection, heard: Heard, closed: list[int | None]) -> None:
    try:
        async for text in socket:
            await socket.send(orjson.dumps({"ack": heard.hear(str(text))}).decode())
    except ConnectionClosed:
        pass
    closed.append(socket.close_code)


async def _end_of(socket: ClientConnection, closed: list[int | None]) -> None:
    await socket.wait_closed()
    closed.append(socket.close_code)


if __name__ == "__main__":
    raise SystemExit(main())
