"""A real daphne on the test database."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from django.db import connection

from integration.services.ports import free_port

CHECKOUT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Site:
    """A running daphne."""

    address: str
    log: Path


@contextmanager
def running_site(folder: Path) -> Iterator[Site]:
    """Daphne until the block ends; its log lies in the folder."""
    at, port, log = connection.settings_dict, free_port(), folder / "daphne.log"
    url = f"postgresql://{at['USER']}@{at['HOST']}:{at['PORT']}/{at['NAME']}"
    argv = [sys.executable, "-u", "-m", "daphne", "-b", "127.0.0.1", "-p", str(port)]
    with log.open("w") as out:
        process = subprocess.Popen(
            [*argv, "drakkar_site.asgi:application"],
            cwd=CHECKOUT,
            env={**os.environ, "DRAKKAR_SITE__DATABASE_URL": url},
            stdout=out,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stderr is not None
            assert any("Listening on TCP" in line for line in process.stderr)
            yield Site(f"127.0.0.1:{port}", log)
        finally:
            process.kill()
            process.communicate()
