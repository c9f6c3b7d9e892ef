"""What ``drakkar doctor`` looks at: what a worker needs here, each with what to do.

Each check is a function of the loaded configuration that yields findings; its waits are bounded.
"""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import psycopg
from django.db import DatabaseError, connections
from django.db.migrations.executor import MigrationExecutor

from drakkar_site.checks import programs
from drakkar_site.config.exposure import has_shipped_key
from drakkar_site.config.sources import State
from workers.broker.base import BrokerUnavailable
from workers.broker.named_topics import NamedTopic, named_topics
from workers.broker.topic_reader import bounds_of
from workers.config import ClusterConfig
from workers.executor.base import ExecutorUnavailable
from workers.executor.isolation import PID_NAMESPACE
from workers.runtime.build import build_executor

ASK_SECONDS = 5
START_SECONDS = 20.0
SKEW_SECONDS = 1.0
"""Clocks this far apart put events of several machines in a wrong order."""
FILES, FILES_OF_A_SLOT = 256, 8
PROCESSES = 512
SPOOL_FREE_BYTES = 1024 * 1024 * 1024
MIB = 1024 * 1024


class Level(StrEnum):
    """How bad a finding is; with ``FAIL`` a worker or the page cannot do its work."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line: which check, how bad, what was found, and what to do, '' where nothing is."""

    check: str
    level: Level
    found: str
    advice: str = ""


Check = Callable[[State], Iterator[Finding]]


def _ok(check: str, found: str) -> Finding:
    return Finding(check=check, level=Level.OK, found=found)


def _warn(check: str, found: str, advice: str) -> Finding:
    return Finding(check=check, level=Level.WARN, found=found, advice=advice)


def _fail(check: str, found: str, advice: str) -> Finding:
    return Finding(check=check, level=Level.FAIL, found=found, advice=advice)


def _clusters(state: State) -> dict[str, ClusterConfig]:
    return {} if state.config is None else dict(state.config.clusters)


def configuration(state: State) -> Iterator[Finding]:
    """Look at the file, the environment, handlers and programs."""
    problems = [*state.problems, *programs(state)]
    for problem in problems:
        yield _fail("configuration", str(problem), problem.hint or "mend this key")
    if not problems:
        yield _ok("configuration", f"{state.path}: {', '.join(_clusters(state)) or 'no cluster'}")
    if has_shipped_key(state.site):
        yield _warn(
            "configuration",
            "site.secret_key is one that ships with Drakkar",
            "set 50 or more random characters before others than this machine open the page",
        )


def kafka(state: State) -> Iterator[Finding]:
    """Ask each broker for the topics that the configuration names."""
    places: dict[object, list[tuple[str, NamedTopic]]] = {}
    for cluster, config in _clusters(state).items():
        for named in named_topics(config):
            places.setdefault(named.place, []).append((cluster, named))
    for topics in places.values():
        brokers = topics[0][1].brokers
        try:
            known = bounds_of([named for _, named in topics])
        except BrokerUnavailable as exc:
            yield _fail("kafka", f"{brokers}: {exc}", "start it, or mend kafka.brokers and client")
            continue
        yield _ok("kafka", f"{brokers} answers")
        yield from _topics(topics, known.keys())


def _topics(topics: Sequence[tuple[str, NamedTopic]], known: object) -> Iterator[Finding]:
    names = list(dict.fromkeys(named.topic for _, named in topics))
    missing = [
        (cluster, named)
        for cluster, named in topics
        if named.topic not in known  # type: ignore[operator]
    ]
    for cluster, named in missing:
        text = f"{named.topic} ({named.role} of {cluster}) is not there"
        yield _fail("topics", text, f"drakkar create_topics --cluster {cluster}")
    if not missing:
        yield _ok("topics", f"{len(names)} of {len(names)} are there")


def postgres(state: State) -> Iterator[Finding]:
    """Connect to each database, compare clocks, look for migrations."""
    urls = {"default": state.site.database_url, "history": state.site.history_url}
    for alias, url in urls.items():
        if not url:
            continue
        key = "site.database_url" if alias == "default" else "site.history_url"
        try:
            with psycopg.connect(url, connect_timeout=ASK_SECONDS) as connection:
                connection.execute(f"SET statement_timeout = '{ASK_SECONDS}s'".encode())
                version = connection.info.server_version
                began = time.time()
                (theirs,) = connection.execute(
                    "SELECT extract(epoch FROM clock_timestamp())::float8"
                ).fetchone() or (began,)
                ours = (began + time.time()) / 2
        except (psycopg.Error, ValueError) as exc:
            yield _fail("postgres", f"{key}: {_first_line(exc)}", f"start it, or mend {key}")
            continue
        yield _ok("postgres", f"{key}: PostgreSQL {version // 10000} answers")
        yield _clock(key, float(theirs) - ours)
        yield _migrations(alias, key)


def _first_line(exc: Exception) -> str:
    return (str(exc).strip() or type(exc).__name__).splitlines()[0]


def _clock(key: str, skew_seconds: float) -> Finding:
    text = f"{abs(skew_seconds):.1f} s apart from the server of {key}"
    if abs(skew_seconds) < SKEW_SECONDS:
        return _ok("clock", text)
    return _warn("clock", text, "have both follow one time server (NTP, chrony)")


def _migrations(alias: str, key: str) -> Finding:
    try:
        executor = MigrationExecutor(connections[alias])
        plan = executor.migration_plan(executor.loader.graph.leaf_nodes())
    except DatabaseError as exc:
        return _fail("migrations", f"{key}: {_first_line(exc)}", "see what the server's log says")
    finally:
        connections[alias].close()
    if plan:
        return _fail("migrations", f"{key}: {len(plan)} are missing", "drakkar migrate")
    return _ok("migrations", f"{key}: all are there")


def ulimits(state: State) -> Iterator[Finding]:
    """Compare limits of this user with what the slots of a worker take."""
    slots = max((each.executor.max_executors for each in _clusters(state).values()), default=1)
    wanted = FILES + slots * FILES_OF_A_SLOT
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield _limit("open files", "ulimit -Hn", files, wanted)
    _, processes = resource.getrlimit(resource.RLIMIT_NPROC)
    yield _limit("processes", "ulimit -Hu", processes, PROCESSES + slots)


def _limit(what: str, command: str, hard: int, wanted: int) -> Finding:
    shown = "unlimited" if hard == resource.RLIM_INFINITY else f"{hard:,}"
    if hard == resource.RLIM_INFINITY or hard >= wanted:
        return _ok("ulimits", f"{what}: {shown}")
    return _warn("ulimits", f"{what}: {shown}", f"raise {command} to {wanted:,} or more")


def isolation(state: State) -> Iterator[Finding]:
    """Start each cluster's executor for a moment: which tier and cgroups its tasks get."""
    for name, config in _clusters(state).items():
        try:
            tier, cgroups = asyncio.run(_started(config))
        except (ExecutorUnavailable, OSError, TimeoutError) as exc:
            advice = "see docs/security.md: what a worker needs of its machine"
            yield _fail("isolation", f"{name}: {_first_line(exc)}", advice)
            continue
        yield _tier(name, tier)
        yield _cgroups(name, cgroups, is_wanted=config.executor.cgroups != "off")


async def _started(config: ClusterConfig) -> tuple[str, str]:
    executor, _ = build_executor(config, dict(os.environ))
    async with asyncio.timeout(START_SECONDS):
        try:
            await executor.start()
            return executor.isolation, executor.cgroups
        finally:
            await executor.close()


def _tier(name: str, tier: str) -> Finding:
    if tier == PID_NAMESPACE:
        return _ok("isolation", f"{name}: tasks have a PID namespace")
    advice = "allow unprivileged user namespaces, if tasks should not see the machine's processes"
    return _warn("isolation", f"{name}: tier {tier}, without namespaces", advice)


def _cgroups(name: str, found: str, *, is_wanted: bool) -> Finding:
    if not is_wanted or not found.startswith("none"):
        return _ok("cgroups", f"{name}: {found}")
    advice = "delegate a cgroup (systemd: Delegate=yes), if limits are to hold for all processes"
    return _warn("cgroups", f"{name}: {found}", f"{advice} of a task together")


def disk(state: State) -> Iterator[Finding]:
    """Look at the folders of the spools: whether they can be written, and their room."""
    folders = {
        config.recorder.spool_dir.absolute(): config.recorder.spool_max_bytes
        for config in _clusters(state).values()
    }
    for folder, most_bytes in folders.items():
        yield _spool(folder, most_bytes)


def _spool(folder: Path, most_bytes: int) -> Finding:
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        advice = "give it to the worker's user, or set recorder.spool_dir"
        return _fail("disk", f"{folder} cannot be written", advice)
    free = shutil.disk_usage(there).free
    text = f"{folder}: {free // MIB:,} MiB free"
    if free < min(most_bytes, SPOOL_FREE_BYTES):
        wanted = f"{most_bytes // MIB:,} MiB (recorder.spool_max_bytes)"
        return _warn("disk", text, f"make room: the spool may take {wanted} while Postgres is away")
    return _ok("disk", text)


CHECKS: tuple[Check, ...] = (configuration, kafka, postgres, ulimits, isolation, disk)
"""In the order in which they are shown."""


def findings(state: State) -> Iterator[Finding]:
    """Yield what each check finds; those that need a sound configuration are left out without."""
    is_sound = state.config is not None
    for check in CHECKS if is_sound else (configuration,):
        yield from check(state)
