"""``python -m integration.bench.pages``: what every page costs the server with a long history.

A PostgreSQL of its own with a million events, 50 partitions and 10 workers; every page of the URL
map through Django's test client, warm. Prints the median time and the queries of each; the exit
code is 1 when a page misses its target.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import django
import psutil
from django.core.management import call_command

from integration.bench.worker import CHECKOUT
from integration.services import postgres
from integration.services.ports import free_port

EVENTS = 1_000_000
ROUNDS = 7
SETTINGS = {**postgres.FORGETFUL, "shared_buffers": "512MB", "max_wal_size": "4GB"}
MOST_MS, MOST_QUERIES = 100.0, 15


@dataclass(frozen=True, slots=True)
class Cost:
    """What one page cost; ``ms`` is the median of warm rounds. ``cpu_ms`` is the mean CPU time of a
    round, here and in Postgres: other work on the machine moves it less."""

    address: str
    status: int
    ms: float
    cpu_ms: float
    queries: int

    @property
    def is_met(self) -> bool:
        """Whether it answered within its targets."""
        return self.status in (200, 302) and self.ms <= MOST_MS and self.queries <= MOST_QUERIES

    def __str__(self) -> str:
        word = "met" if self.is_met else f"MISSED ({self.status})"
        took = f"{self.ms:>7.1f} ms {self.cpu_ms:>7.1f} CPU ms"
        return f"{self.address[:70]:<70} {took} {self.queries:>3} queries  {word}"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    root = argparse.ArgumentParser(prog="python -m integration.bench.pages")
    root.add_argument("--events", type=int, default=EVENTS, help="how many to seed")
    root.add_argument(
        "--keep", type=Path, help="folder of the database: kept, and used again with what is there"
    )
    root.add_argument("--only", default="", help="pages whose address holds this text")
    return root


def main() -> int:
    """Seed, measure, print; returns the exit code."""
    given = parser().parse_args()
    with database(given.keep):
        from integration.bench import fleet
        from integration.bench.addresses import addresses
        from recorder.models import Run

        began = time.monotonic()
        sample = fleet.sample() if Run.objects.exists() else fleet.make(given.events)
        print(f"{given.events:,} events made in {time.monotonic() - began:.0f} s", flush=True)
        reader = client()
        costs = []
        for address in addresses(sample):
            if given.only in address:
                costs.append(cost(reader, address))
                print(costs[-1], flush=True)
    print(f"load average {os.getloadavg()[0]:.1f}: other work on the machine moves every figure")
    return 0 if all(each.is_met for each in costs) else 1


@contextmanager
def database(keep: Path | None = None) -> Iterator[None]:
    """A migrated PostgreSQL, with Django set up on it; its data goes, unless a folder keeps it."""
    with tempfile.TemporaryDirectory(prefix="drakkar-") as name:
        port = free_port()
        os.environ["DJANGO_SETTINGS_MODULE"] = "drakkar_site.settings"
        os.environ["DRAKKAR_CONFIG"] = str(CHECKOUT / "drakkar.yaml")
        os.environ["DRAKKAR_SITE__DATABASE_URL"] = postgres.database_url(port)
        with postgres.running(keep or Path(name) / "postgres", port, settings=SETTINGS):
            django.setup()
            call_command("migrate", verbosity=0)
            yield


def client() -> Any:
    """A signed-in admin."""
    from django.contrib.auth.models import User
    from django.test import Client

    user = User.objects.filter(is_superuser=True).first()
    found = Client(headers={"host": "localhost"})
    found.force_login(user or User.objects.create_superuser("bench"))
    return found


def cost(reader: Any, address: str) -> Cost:
    """Open a page once to warm up, once to count, then with a clock."""
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    reader.get(address)
    with CaptureQueriesContext(connection) as asked:
        status = reader.get(address).status_code
        queries = len(asked)
    took = []
    server = psutil.Process(connection.connection.info.backend_pid)
    cpu_before = _cpu_seconds(server)
    for _ in range(ROUNDS):
        began = time.perf_counter()
        b"".join(reader.get(address))
        took.append((time.perf_counter() - began) * 1000.0)
    cpu_ms = (_cpu_seconds(server) - cpu_before) * 1000.0 / ROUNDS
    return Cost(address, status, median(took), cpu_ms, queries)


def _cpu_seconds(server: psutil.Process) -> float:
    of_server = server.cpu_times()
    return time.process_time() + of_server.user + of_server.system


if __name__ == "__main__":
    sys.exit(main())
