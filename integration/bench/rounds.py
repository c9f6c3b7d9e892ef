"""Rounds: one worker on fresh topics, warmed up, then measured under a burst or a steady load."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import psutil

from integration.bench.config import CLUSTER, Topics, settings, write_config
from integration.bench.cpu import Usage, spent_seconds, tree_usage
from integration.bench.figures import percentile
from integration.bench.history import forget_history, history_bytes, recorded_fates
from integration.bench.threads import spent_by_name, thread_seconds
from integration.bench.traffic import (
    RESULT_PARTITIONS,
    BenchFailed,
    Group,
    Results,
    Sender,
    make_topics,
)
from integration.bench.worker import CHECKOUT, running_by_hand, running_worker
from integration.services.base import last_lines
from integration.services.kafka_apache import RunningKafka
from integration.services.postgres import DATABASE, RunningPostgres

WARM_UP_MESSAGES = 200
BROKER_WARM_UP_MESSAGES = 10_000
ROUND_SECONDS = 120.0
PACED_SECONDS = 20.0
REST_SECONDS = 2.0
"""After its start, before what a resting worker takes is measured."""
MIB = 2**20
SETTLE_POLL_SECONDS = 0.1
BURST_LINGER_MS = 50
READ_WAIT_MS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the rounds run, and the checkout whose worker is ours."""

    folder: Path
    kafka: RunningKafka
    postgres: RunningPostgres
    checkout: Path = CHECKOUT
    database: str = DATABASE

    @property
    def database_url(self) -> str:
        """The control plane's database, migrated by that checkout."""
        return self.postgres.database_url(self.database)


class Peer(StrEnum):
    """Who is measured: ours with its history or without, and the one written by hand."""

    RECORDER_ON = "on"
    RECORDER_OFF = "off"
    BY_HAND = "hand"


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a worker is given: the keys of the executor's section and of the handler's that differ,
    and how many messages warm it up."""

    executor: Mapping[str, Any] = field(default_factory=dict)
    app: Mapping[str, Any] = field(default_factory=dict)
    warm_up: int = WARM_UP_MESSAGES


PLAIN = Work()


@dataclass(frozen=True, slots=True, kw_only=True)
class Throughput:
    """One round under a burst; CPU in ms a message, of the tasks' programs apart from the rest.

    ``threads_us``: CPU of the worker's own threads, in us a message.
    """

    per_second: float
    worker_cpu_ms: float
    program_cpu_ms: float
    postgres_cpu_ms: float
    kafka_cpu_ms: float
    threads_us: Mapping[str, float]
    history_bytes: float
    start_seconds: float
    rss_mib: float
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
    start_seconds: float
    settle: Callable[[int], None]

    @property
    def rss_mib(self) -> float:
        """Resident memory of the worker's own process now."""
        return float(psutil.Process(self.worker_pid).memory_info().rss) / MIB


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


def throughput(
    place: Place, label: str, messages: int, peer: Peer, work: Work = PLAIN
) -> Throughput:
    """Send ``messages`` at once to a warm worker. Raises BenchFailed."""
    with _warm_worker(place, label, peer, work) as setting:
        sender = Sender(place.kafka.brokers, setting.topics.source, BURST_LINGER_MS)
        kept = history_bytes(place.database_url)
        threads, before = thread_seconds(setting.worker_pid), _usages(place, setting.worker_pid)
        for number in range(messages):
            sender.send(number)
        _read(place, label, setting.results, work.warm_up + messages)
        setting.settle(messages)
        after = _usages(place, setting.worker_pid)
        by_thread = spent_by_name(threads, thread_seconds(setting.worker_pid))
        kept = history_bytes(place.database_url) - kept
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
            threads_us={name: seconds * ms * 1000 for name, seconds in by_thread.items()},
            history_bytes=kept / messages,
            start_seconds=setting.start_seconds,
            rss_mib=setting.rss_mib,
            duplicates=setting.results.duplicates,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Calm:
    """A worker without pressure, recorder on; None: not measured.

    ``start_seconds``: from the start of its process to the first result of messages that waited.
    ``rss_mib``: resident memory of its process at the end. ``idle_cpu_ms``: CPU a second of worker
    and spawners while nothing comes. The others are those of an even pace: CPU a message, latencies
    from sending to a readable result, CPU of the worker's threads in us a message.
    """

    start_seconds: float
    rss_mib: float
    idle_cpu_ms: float | None
    worker_cpu_ms: float | None = None
    p50_ms: float | None = None
    p99_ms: float | None = None
    threads_us: Mapping[str, float] = field(default_factory=dict)


def calm(place: Place, label: str, *, idle_seconds: float, per_second: float) -> Calm:
    """Start a worker, leave it alone, send at an even pace; 0: not that. Raises BenchFailed."""
    with _warm_worker(place, label, Peer.RECORDER_ON) as setting:
        idle_cpu_ms = _idle(setting.worker_pid, idle_seconds) if idle_seconds else None
        paced = _paced(place, label, setting, per_second) if per_second else {}
        return Calm(
            start_seconds=setting.start_seconds,
            rss_mib=setting.rss_mib,
            idle_cpu_ms=idle_cpu_ms,
            **paced,
        )


def _idle(pid: int, seconds: float) -> float:
    time.sleep(REST_SECONDS)
    before = tree_usage(pid)
    time.sleep(seconds)
    return spent_seconds(before, tree_usage(pid)).own * 1000 / seconds


def _paced(place: Place, label: str, setting: Setting, per_second: float) -> dict[str, Any]:
    messages, pid = int(per_second * PACED_SECONDS), setting.worker_pid
    sender = Sender(place.kafka.brokers, setting.topics.source, 0)
    threads, before = thread_seconds(pid), tree_usage(pid)
    sending = threading.Thread(
        target=sender.send_steadily, args=(messages, per_second), name="sender"
    )
    sending.start()
    _read(place, label, setting.results, WARM_UP_MESSAGES + messages)
    sending.join()
    setting.settle(messages)
    spent = spent_seconds(before, tree_usage(pid))
    by_thread = spent_by_name(threads, thread_seconds(pid))
    latencies_ms = [ms for number, ms in setting.results.latency_ms.items() if number >= 0]
    return {
        "worker_cpu_ms": spent.own * 1000 / messages,
        "p50_ms": percentile(latencies_ms, 50),
        "p99_ms": percentile(latencies_ms, 99),
        "threads_us": {name: seconds * 1e6 / messages for name, seconds in by_thread.items()},
    }


@contextmanager
def _warm_worker(place: Place, label: str, peer: Peer, work: Work = PLAIN) -> Iterator[Setting]:
    topics, brokers = Topics.of(label), place.kafka.brokers
    make_topics(brokers, topics)
    forget_history(place.database_url)
    sender = Sender(brokers, topics.source, 0)
    for number in range(work.warm_up):
        sender.send(-1 - number)
    sender.flush()
    results, group = Results(brokers, topics.results, READ_WAIT_MS), Group(brokers, topics)
    began = time.monotonic()
    with closing(results), closing(group), _running(place, label, topics, peer, work) as pid:
        _read(place, label, results, work.warm_up)

        def settle(messages: int) -> None:
            _settle(place, group, work.warm_up + messages, peer)

        settle(0)
        yield Setting(
            topics=topics,
            worker_pid=pid,
            results=results,
            start_seconds=min(results.seen_at.values()) - began,
            settle=settle,
        )


def _running(
    place: Place, label: str, topics: Topics, peer: Peer, work: Work
) -> AbstractContextManager[int]:
    brokers, log = place.kafka.brokers, _log(place, label)
    if peer is Peer.BY_HAND:
        return running_by_hand(brokers, topics, log)
    config = place.folder / f"{label}.yaml"
    content = settings(
        topics, brokers=brokers, database_url=place.database_url, folder=place.folder
    )
    cluster = content["clusters"][CLUSTER]
    cluster["executor"] |= work.executor
    cluster["app"] = dict(work.app)
    write_config(config, content)
    has_recorder = peer is Peer.RECORDER_ON
    return running_worker(config, log, has_recorder=has_recorder, checkout=place.checkout)


def _read(place: Place, label: str, results: Results, wanted: int) -> None:
    results.read_until(
        lambda: len(results.seen_at) >= wanted,
        ROUND_SECONDS,
        lambda: last_lines(_log(place, label)),
    )


def _settle(place: Place, group: Group, messages: int, peer: Peer) -> None:
    """Wait until everything is committed, and recorded, so that no cost is left out."""
    deadline = time.monotonic() + ROUND_SECONDS
    has_recorder = peer is Peer.RECORDER_ON

    def recorded() -> int:
        return recorded_fates(place.database_url) if has_recorder else messages

    while group.committed() < messages or recorded() < messages:
        if time.monotonic() > deadline:
            raise BenchFailed(f"committed {group.committed()}, recorded {recorded()}")
        time.sleep(SETTLE_POLL_SECONDS)


def _usages(place: Place, worker_pid: int) -> tuple[Usage, Usage, Usage]:
    return (
        tree_usage(worker_pid),
        tree_usage(place.postgres.pid),
        tree_usage(place.kafka.pid),
    )


def _log(place: Place, label: str) -> Path:
    return place.folder / f"{label}.log"
