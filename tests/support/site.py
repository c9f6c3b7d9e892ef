"""A real daphne on the test database."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from django.db import connection

from integration.services.ports import free_port

CHECKOUT = Path(__file__).parents[2]
START_SECONDS = 30


@dataclass(frozen=True)
class Site:
    """A running daphne."""

    address: str
    log: Path


@contextmanager
def running_site(folder: Path, database: str = "") -> Iterator[Site]:
    """Daphne until the block ends; its log lies in the folder.

    ``database`` is ``host:port`` of what stands before PostgreSQL, if anything does.
    """
    at, port, log = connection.settings_dict, free_port(), folder / "daphne.log"
    url = f"postgresql://{at['USER']}@{database or '{HOST}:{PORT}'.format(**at)}/{at['NAME']}"
    argv = [sys.executable, "-u", "-m", "daphne", "-b", "127.0.0.1", "-p", str(port)]
    with log.open("w") as out, (folder / "daphne.err").open("w") as errors:
        process = subprocess.Popen(
            [*argv, "drakkar_site.asgi:application"],
            cwd=CHECKOUT,
            env={**os.environ, "DRAKKAR_SITE__DATABASE_URL": url},
            stdout=out,
            stderr=errors,
        )
        try:
            _wait_until_it_listens(process, port)
            yield Site(f"127.0.0.1:{port}", log)
        finally:
            process.kill()
            process.wait()


def _wait_until_it_listens(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, "daphne ended at once: see daphne.err"
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except ConnectionRefusedError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError(f"daphne does not listen after {START_SECONDS} s")
