"""Rounds: one worker on fresh topics, warmed up, then measured under a burst or a steady load."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg

from integration.bench.config import Topics, settings, write_config
from integration.bench.cpu import Usage, spent_seconds, tree_usage
from integration.bench.traffic import BenchFailed, Group, Results, Sender, make_topics
from integration.bench.worker import running_worker
from integration.services.base import last_lines
from integration.services.kafka_apache import RunningKafka
from integration.services.postgres import RunningPostgres

WARM_UP_MESSAGES = 200
ROUND_SECONDS = 120.0
SETTLE_POLL_SECONDS = 0.1
BURST_LINGER_MS = 50
READ_WAIT_MS = 5
COUNT_COMPLETED = "SELECT count(*) FROM recorder_event WHERE kind = 'message_completed'"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the rounds run."""

    folder: Path
    kafka: RunningKafka
    postgres: RunningPostgres

    @property
    def database_url(self) -> str:
        """The control plane's database."""
        return self.postgres.dsn


@dataclass(frozen=True, slots=True, kw_only=True)
class Throughput:
    """One round under a burst; CPU in ms a message, programs of the tasks not counted."""

    per_second: float
    worker_cpu_ms: float
    postgres_cpu_ms: float
    kafka_cpu_ms: float
    duplicates: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A warm, idle worker and the bench's clients around it."""

    topics: Topics
    worker_pid: int
    results: Results
    settle: Callable[[int], None]


def throughput(place: Place, label: str, messages: int, *, has_recorder: bool) -> Throughput:
    """Send ``messages`` at once to a warm worker. Raises BenchFailed."""
    with _warm_worker(place, label, has_recorder=has_recorder) as setting:
        sender = Sender(place.kafka.brokers, setting.topics.source, BURST_LINGER_MS)
        before = _usages(place, setting.worker_pid)
        for number in range(messages):
            sender.send(number)
        _read(place, label, setting.results, messages)
        setting.settle(messages)
        after = _usages(place, setting.worker_pid)
        sender.flush()
        seen = [at for number, at in setting.results.seen_at.items() if number >= 0]
        spent = [spent_seconds(*pair) * 1000 / messages for pair in zip(before, after, strict=True)]
        return Throughput(
            per_second=(messages - 1) / (max(seen) - min(seen)),
            worker_cpu_ms=spent[0],
            postgres_cpu_ms=spent[1],
            kafka_cpu_ms=spent[2],
            duplicates=setting.results.duplicates,
        )


def latencies_ms(place: Place, label: str, messages: int, per_second: float) -> list[float]:
    """From handing over to readable on the sink's topic, recorder on. Raises BenchFailed."""
    with _warm_worker(place, label, has_recorder=True) as setting:
        sender = Sender(place.kafka.brokers, setting.topics.source, 0)
        sending = threading.Thread(
            target=sender.send_steadily, args=(messages, per_second), name="sender"
        )
        sending.start()
        _read(place, label, setting.results, messages)
        sending.join()
        return [ms for number, ms in setting.results.latency_ms.items() if number >= 0]


@contextmanager
def _warm_worker(place: Place, label: str, *, has_recorder: bool) -> Iterator[Setting]:
    topics, brokers = Topics.of(label), place.kafka.brokers
    config, log = place.folder / f"{label}.yaml", _log(place, label)
    content = settings(
        topics, brokers=brokers, database_url=place.database_url, folder=place.folder
    )
    write_config(config, content)
    make_topics(brokers, topics)
    _forget_history(place)
    results, group = Results(brokers, topics.results, READ_WAIT_MS), Group(brokers, topics)
    with (
        closing(results),
        closing(group),
        running_worker(config, log, has_recorder=has_recorder) as pid,
    ):
        sender = Sender(brokers, topics.source, 0)
        for number in range(WARM_UP_MESSAGES):
            sender.send(-1 - number)
        sender.flush()
        _read(place, label, results, 0)

        def settle(messages: int) -> None:
            _settle(place, group, WARM_UP_MESSAGES + messages, has_recorder)

        settle(0)
        yield Setting(topics=topics, worker_pid=pid, results=results, settle=settle)


def _read(place: Place, label: str, results: Results, messages: int) -> None:
    wanted = WARM_UP_MESSAGES + messages
    results.read_until(
        lambda: len(results.seen_at) >= wanted,
        ROUND_SECONDS,
        lambda: last_lines(_log(place, label)),
    )


def _settle(place: Place, group: Group, messages: int, has_recorder: bool) -> None:
    """Wait until everything is committed, and recorded, so that no cost is left out."""
    deadline = time.monotonic() + ROUND_SECONDS
    while group.committed() < messages or (has_recorder and _recorded(place) < messages):
        if time.monotonic() > deadline:
            raise BenchFailed(f"committed {group.committed()}, recorded {_recorded(place)}")
        time.sleep(SETTLE_POLL_SECONDS)


def _recorded(place: Place) -> int:
    with psycopg.connect(place.database_url) as connection:
        row = connection.execute(COUNT_COMPLETED).fetchone()
    return int(row[0]) if row else 0


def _forget_history(place: Place) -> None:
    with psycopg.connect(place.database_url) as connection:
        connection.execute("TRUNCATE recorder_event")


def _usages(place: Place, worker_pid: int) -> tuple[Usage, Usage, Usage]:
    return (
        tree_usage(worker_pid),
        tree_usage(place.postgres.pid),
        tree_usage(place.kafka.pid),
    )


def _log(place: Place, label: str) -> Path:
    return place.folder / f"{label}.log"
