"""A real daphne on the test database."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from django.db import connection

from integration.services.ports import LOOPBACK

CHECKOUT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Site:
    """A running daphne."""

    address: str
    log: Path


class Mould:
    """Imports the site once; each server is a process of its own that remembers nothing."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        self._asked: IO[str] = process.stdin
        self._answers: IO[str] = process.stdout

    @contextmanager
    def site(self, folder: Path) -> Iterator[Site]:
        """Daphne until the block ends; its log lies in the folder."""
        port = self._ask(str(folder))
        try:
            yield Site(f"{LOOPBACK}:{port}", folder / "daphne.log")
        finally:
            self._ask("")

    def _ask(self, line: str) -> int:
        self._asked.write(f"{line}\n")
        self._asked.flush()
        answer = self._answers.readline()
        assert answer, "the site cannot be imported: see mould.err"
        return int(answer)


@contextmanager
def mould(folder: Path, database: str = "", **environment: str) -> Iterator[Mould]:
    """A mould for sites with this environment, until the block ends.

    ``database`` is ``host:port`` of what stands before PostgreSQL, if anything does.
    """
    at = connection.settings_dict
    url = f"postgresql://{at['USER']}@{database or '{HOST}:{PORT}'.format(**at)}/{at['NAME']}"
    with (
        (folder / "mould.err").open("w") as errors,
        subprocess.Popen(
            [sys.executable, "-u", "-m", "tests.support.site_mould"],
            cwd=CHECKOUT,
            env={**os.environ, "DRAKKAR_SITE__DATABASE_URL": url, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as process,
    ):
        yield Mould(process)


@contextmanager
def running_site(folder: Path, database: str = "") -> Iterator[Site]:
    """A single site of its own."""
    with mould(folder, database) as made, made.site(folder) as site:
        yield site
