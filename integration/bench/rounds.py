"""Rounds: one worker on fresh topics, warmed up, then measured under a burst or a steady load."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import psycopg

from integration.bench.config import Topics, settings, write_config
from integration.bench.cpu import Usage, spent_seconds, tree_usage
from integration.bench.traffic import (
    RESULT_PARTITIONS,
    BenchFailed,
    Group,
    Results,
    Sender,
    make_topics,
)
from integration.bench.worker import running_by_hand, running_worker
from integration.services.base import last_lines
from integration.services.kafka_apache import RunningKafka
from integration.services.postgres import RunningPostgres
from integration.told import COUNT_FATES

WARM_UP_MESSAGES = 200
BROKER_WARM_UP_MESSAGES = 10_000
ROUND_SECONDS = 120.0
SETTLE_POLL_SECONDS = 0.1
BURST_LINGER_MS = 50
READ_WAIT_MS = 5


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


class Peer(StrEnum):
    """Who is measured: ours with its history or without, and the one written by hand."""

    RECORDER_ON = "on"
    RECORDER_OFF = "off"
    BY_HAND = "hand"


@dataclass(frozen=True, slots=True, kw_only=True)
class Throughput:
    """One round under a burst; CPU in ms a message, of the tasks' programs apart from the rest."""

    per_second: float
    worker_cpu_ms: float
    program_cpu_ms: float
    postgres_cpu_ms: float
    kafka_cpu_ms: float
    duplicates: int

    @property
    def overhead(self) -> float:
        """K: CPU of worker, spawners and Postgres over that of the programs in the same round.

        Most of what the machine does to every figure cancels out in it.
        """
        return (self.worker_cpu_ms + self.postgres_cpu_ms) / self.program_cpu_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A warm, idle worker and the bench's clients around it."""

    topics: Topics
    worker_pid: int
    results: Results
    settle: Callable[[int], None]


def warm_broker(place: Place) -> None:
    """Send and read enough that the broker's code is compiled before anything is measured.

    A cold broker takes more CPU a message than the worker. Raises BenchFailed.
    """
    topics, brokers = Topics.of("warm"), place.kafka.brokers
    make_topics(brokers, topics)
    sender = Sender(brokers, topics.results, 0, RESULT_PARTITIONS)
    with closing(Results(brokers, topics.results, READ_WAIT_MS)) as results:
        for number in range(BROKER_WARM_UP_MESSAGES):
            sender.send(number)
            sender.poll(0)
        sender.flush()
        results.read_until(
            lambda: len(results.seen_at) >= BROKER_WARM_UP_MESSAGES, ROUND_SECONDS, lambda: ""
        )


def throughput(place: Place, label: str, messages: int, peer: Peer) -> Throughput:
    """Send ``messages`` at once to a warm worker. Raises BenchFailed."""
    with _warm_worker(place, label, peer) as setting:
        sender = Sender(place.kafka.brokers, setting.topics.source, BURST_LINGER_MS)
        before = _usages(place, setting.worker_pid)
        for number in range(messages):
            sender.send(number)
        _read(place, label, setting.results, messages)
        setting.settle(messages)
        after = _usages(place, setting.worker_pid)
        sender.flush()
        seen = [at for number, at in setting.results.seen_at.items() if number >= 0]
        spent = [spent_seconds(*pair) for pair in zip(before, after, strict=True)]
        ms = 1000 / messages
        return Throughput(
            per_second=(messages - 1) / (max(seen) - min(seen)),
            worker_cpu_ms=spent[0].own * ms,
            program_cpu_ms=spent[0].reaped * ms,
            postgres_cpu_ms=spent[1].own * ms,
            kafka_cpu_ms=spent[2].own * ms,
            duplicates=setting.results.duplicates,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Steady:
    """A round at an even pace: end-to-end latencies, and the worker's CPU in ms a message."""

    latencies_ms: list[float]
    worker_cpu_ms: float


def steady(place: Place, label: str, messages: int, per_second: float) -> Steady:
    """From handing over to readable on the sink's topic, recorder on. Raises BenchFailed."""
    with _warm_worker(place, label, Peer.RECORDER_ON) as setting:
        sender = Sender(place.kafka.brokers, setting.topics.source, 0)
        before = tree_usage(setting.worker_pid)
        sending = threading.Thread(
            target=sender.send_steadily, args=(messages, per_second), name="sender"
        )
        sending.start()
        _read(place, label, setting.results, messages)
        sending.join()
        setting.settle(messages)
        spent = spent_seconds(before, tree_usage(setting.worker_pid))
        return Steady(
            latencies_ms=[ms for number, ms in setting.results.latency_ms.items() if number >= 0],
            worker_cpu_ms=spent.own * 1000 / messages,
        )


@contextmanager
def _warm_worker(place: Place, label: str, peer: Peer) -> Iterator[Setting]:
    topics, brokers = Topics.of(label), place.kafka.brokers
    make_topics(brokers, topics)
    _forget_history(place)
    results, group = Results(brokers, topics.results, READ_WAIT_MS), Group(brokers, topics)
    with closing(results), closing(group), _running(place, label, topics, peer) as pid:
        sender = Sender(brokers, topics.source, 0)
        for number in range(WARM_UP_MESSAGES):
            sender.send(-1 - number)
        sender.flush()
        _read(place, label, results, 0)

        def settle(messages: int) -> None:
            _settle(place, group, WARM_UP_MESSAGES + messages, peer)

        settle(0)
        yield Setting(topics=topics, worker_pid=pid, results=results, settle=settle)


def _running(place: Place, label: str, topics: Topics, peer: Peer) -> AbstractContextManager[int]:
    brokers, log = place.kafka.brokers, _log(place, label)
    if peer is Peer.BY_HAND:
        return running_by_hand(brokers, topics, log)
    config = place.folder / f"{label}.yaml"
    content = settings(
        topics, brokers=brokers, database_url=place.database_url, folder=place.folder
    )
    write_config(config, content)
    return running_worker(config, log, has_recorder=peer is Peer.RECORDER_ON)


def _read(place: Place, label: str, results: Results, messages: int) -> None:
    wanted = WARM_UP_MESSAGES + messages
    results.read_until(
        lambda: len(results.seen_at) >= wanted,
        ROUND_SECONDS,
        lambda: last_lines(_log(place, label)),
    )


def _settle(place: Place, group: Group, messages: int, peer: Peer) -> None:
    """Wait until everything is committed, and recorded, so that no cost is left out."""
    deadline = time.monotonic() + ROUND_SECONDS
    has_recorder = peer is Peer.RECORDER_ON
    while group.committed() < messages or (has_recorder and _recorded(place) < messages):
        if time.monotonic() > deadline:
            raise BenchFailed(f"committed {group.committed()}, recorded {_recorded(place)}")
        time.sleep(SETTLE_POLL_SECONDS)


def _recorded(place: Place) -> int:
    with psycopg.connect(place.database_url) as connection:
        row = connection.execute(COUNT_FATES).fetchone()
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
