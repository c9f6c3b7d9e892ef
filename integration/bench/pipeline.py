"""``--loop``: the pipeline alone, without Kafka and sinks, also in turns with another checkout.

Each round is a process of its own (``pipeline_round.py``), so that two checkouts are measured by
the same means: messages a second, and CPU us a message by thread.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import IO

from integration.bench.config import (
    Topics,
    persistent,
    settings,
    worker_environment,
    write_config,
)
from integration.bench.cpu import Usage, spent_seconds, tree_usage
from integration.bench.history import history_bytes
from integration.bench.threads import Threads, spent_by_name, thread_seconds
from integration.bench.traffic import BenchFailed
from integration.bench.worker import prepare_database
from integration.services.base import dying, last_lines
from integration.services.postgres import RunningPostgres, ensure_database

ROUND = Path(__file__).with_name("pipeline_round.py")
HERE, THERE = "here", "there"
"""Titles of this checkout and the other one."""
NOWHERE = "127.0.0.1:1"
END_SECONDS = 60
Found = dict[tuple["Mode", str], list["PipelineRound"]]
"""Rounds by mode and title of the side."""
HANDLERS = {True: "PrecomputedHandler", False: "BenchHandler"}


class Mode(StrEnum):
    """How the tasks end: at once, by an executor that only answers, as real programs, or by
    persistent processes of one."""

    PRECOMPUTED = "precomputed"
    FAKE = "fake"
    SPAWN = "spawn"
    PERSISTENT = "persistent"


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineRound:
    """One round; CPU in us a message, by thread of the worker, then what is outside of it.

    ``history_bytes`` a message: tables with their indexes; 0 without a recorder.
    """

    per_second: float
    cpu_us: Mapping[str, float]
    history_bytes: float

    @property
    def total_cpu_us(self) -> float:
        """CPU of worker, spawners and Postgres, in us a message."""
        return sum(self.cpu_us.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """A checkout to be measured, and the database that was migrated by it, if there is any."""

    title: str
    checkout: Path
    folder: Path
    postgres: RunningPostgres | None
    database_url: str

    @classmethod
    def prepared(
        cls, title: str, checkout: Path, folder: Path, postgres: RunningPostgres | None
    ) -> Side:
        """Make its folder and database. Raises BenchFailed."""
        folder = folder / title
        folder.mkdir(parents=True)
        if postgres is None:
            url = f"postgresql://nobody@{NOWHERE}/none"
            return cls(
                title=title, checkout=checkout, folder=folder, postgres=None, database_url=url
            )
        ensure_database(postgres.port, title)
        side = cls(
            title=title,
            checkout=checkout,
            folder=folder,
            postgres=postgres,
            database_url=postgres.database_url(title),
        )
        prepare_database(side.config(Mode.SPAWN), checkout)
        return side

    def config(self, mode: Mode) -> Path:
        """Write the configuration for a mode."""
        content = settings(
            Topics.of("loop"), brokers=NOWHERE, database_url=self.database_url, folder=self.folder
        )
        handler = HANDLERS[mode is Mode.PRECOMPUTED]
        content["clusters"]["bench"]["handler"] = f"integration.handlers.bench:{handler}"
        if mode is Mode.PERSISTENT:
            content["clusters"]["bench"]["executor"] |= persistent()
        path = self.folder / f"{mode}.yaml"
        write_config(path, content)
        return path


def pipeline_round(side: Side, mode: Mode, messages: int) -> PipelineRound:
    """Measure one burst in a process of its own. Raises BenchFailed."""
    log, has_history = side.folder / f"{mode}.log", side.postgres is not None
    with _running(side, mode, messages, log) as process:
        _answer(process, log)
        kept = history_bytes(side.database_url) if has_history else 0
        before = _reading(process.pid, side.postgres)
        _go_on(process)
        seconds = float(_answer(process, log))
        after = _reading(process.pid, side.postgres)
        kept = history_bytes(side.database_url) - kept if has_history else 0
        _go_on(process)
    threads = spent_by_name(before[0], after[0])
    spawners, postgres = (spent_seconds(*pair) for pair in zip(before[1:], after[1:], strict=True))
    spent = threads | {"spawners": spawners.own, "postgres": postgres.own}
    return PipelineRound(
        per_second=messages / seconds,
        cpu_us={name: used * 1e6 / messages for name, used in spent.items()},
        history_bytes=kept / messages,
    )


def _reading(pid: int, postgres: RunningPostgres | None) -> tuple[Threads, Usage, Usage]:
    family = {key: used for key, used in tree_usage(pid).items() if key[0] != pid}
    return thread_seconds(pid), family, tree_usage(postgres.pid) if postgres else {}


@contextmanager
def _running(side: Side, mode: Mode, messages: int, log: Path) -> Iterator[subprocess.Popen[str]]:
    argv = [sys.executable, str(ROUND), mode, str(messages)]
    if side.postgres is not None:
        argv.append("recorder")
    with log.open("ab") as output:
        process = subprocess.Popen(
            dying(argv),
            cwd=side.checkout,
            env=worker_environment(dict(os.environ), side.config(mode)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=output,
            text=True,
        )
    try:
        yield process
        if process.wait(END_SECONDS) != 0:
            raise BenchFailed(f"{side.title}: exit code {process.returncode}\n{last_lines(log)}")
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            _open(pipe).close()


def _answer(process: subprocess.Popen[str], log: Path) -> str:
    answer = _open(process.stdout).readline()
    if not answer:
        raise BenchFailed(f"the pipeline ended early:\n{last_lines(log)}")
    return answer


def _go_on(process: subprocess.Popen[str]) -> None:
    pipe = _open(process.stdin)
    pipe.write("\n")
    pipe.flush()


def _open(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None
    return pipe


def in_turns(
    sides: Sequence[Side],
    modes: Sequence[Mode],
    messages: int,
    rounds: int,
    tell: Callable[[str], None],
) -> Found:
    """Measure all rounds, each told; every other one begins with the other side.

    Raises BenchFailed.
    """
    found: Found = {}
    for number, mode in itertools.product(range(rounds), modes):
        for side in sides[:: -1 if number % 2 else 1]:
            one = pipeline_round(side, mode, messages)
            found.setdefault((mode, side.title), []).append(one)
            tell(f"{mode}, {side.title}: {one.per_second:,.0f}/s, {one.total_cpu_us:.1f} CPU us")
    return found
