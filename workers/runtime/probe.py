"""Dry run of messages: the same worker, with a broker, sinks and letters in memory.

Programs run for real, unless another executor is given; nothing is committed, delivered or
recorded outside of this process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

from domain.events import Event, MessageCompleted, Parked, WorkerStopped
from domain.message import Record
from domain.payload import Payload
from sinks.base import Delivery, Sink
from sinks.record_writer import RecordReceipt
from sinks.registry import find
from workers.broker.memory import MemoryBroker, MemoryCluster
from workers.config import ClusterConfig
from workers.executor.base import Executor
from workers.handler import Handler
from workers.runtime.build import ExecutorWatch, build_executor, build_worker, describe_run
from workers.runtime.worker import Worker
from workers.runtime.worker_parts import sink_context


class ProbeTimedOut(Exception):
    """Message without a fate within the time given."""


class ProbeStopped(Exception):
    """Message that gets no fate however long one waits; the text says why and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeReport:
    """Report of what would have happened: the fate, every event, what would have been written."""

    fate: str
    reason: str
    events: Sequence[Event]
    deliveries: Sequence[Delivery]
    letters: Sequence[Mapping[str, bytes | None]]

    @property
    def payloads(self) -> list[Payload]:
        """Return what the sinks would have got, in order."""
        return [delivery.payload for delivery in self.deliveries]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsal:
    """Report of a dry run of several messages, all of which have their fate.

    ``committed`` holds the next offset of each partition; None: nothing was committed.
    """

    events: Sequence[Event]
    deliveries: Sequence[Delivery]
    letters: Sequence[Mapping[str, bytes | None]]
    committed: Mapping[int, int | None]


class _Capture:
    """Sink that refuses what the configured one could not encode, and stores nothing."""

    kind: ClassVar[str] = "probe"

    def __init__(self, real: Sink, taken: list[Delivery]) -> None:
        self._real = real
        self._taken = taken

    def open(self) -> None:
        """Do nothing: there is nothing to open."""

    def encode(self, delivery: Delivery) -> Delivery:
        """Return the payload as it is. Raises what the configured sink raises at it."""
        self._real.encode(delivery)
        return delivery

    def send(self, batch: Sequence[Delivery]) -> None:
        """Show it."""
        self._taken.extend(batch)

    def close(self) -> None:
        """Do nothing: there is nothing to close."""


def _captured(config: ClusterConfig, cluster: str, taken: list[Delivery], name: str) -> _Capture:
    section = config.sinks[name]
    real = find(section.kind).build(section, sink_context(config, cluster, name))
    return _Capture(real, taken)


class _Records:
    """Topic of dead letters, or of retries, that shows what it was given."""

    def __init__(self) -> None:
        self.headers: list[Mapping[str, bytes | None]] = []

    def write_record(
        self,
        key: bytes | None,
        value: bytes | None,
        headers: list[tuple[str, bytes | None]],
        partition: int,
    ) -> RecordReceipt:
        """Take it."""
        self.headers.append(dict(headers))
        return RecordReceipt(topic="", partition=partition, offset=len(self.headers) - 1)

    def close(self) -> None:
        """Do nothing: there is nothing to close."""


@dataclass
class _Watch:
    """Record of what the worker tells and would write; ``done`` once so many messages as are
    ``awaited`` have their fate, or one has none for the reason in ``obstacle``."""

    awaited: int
    events: list[Event] = field(default_factory=list)
    deliveries: list[Delivery] = field(default_factory=list)
    letters: _Records = field(default_factory=_Records)
    done: asyncio.Event = field(default_factory=asyncio.Event)
    obstacle: str = ""

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, MessageCompleted):
            self.awaited -= 1
            if self.awaited == 0:
                self.done.set()
        elif isinstance(event, Parked) and not self.done.is_set():
            self.obstacle = f"the partition would park, cause {event.cause}: {event.detail}"
            self.done.set()
        elif isinstance(event, WorkerStopped) and not self.done.is_set():
            self.obstacle = f"the worker ended before the message had a fate: {event.reason}"


async def probe(
    config: ClusterConfig,
    cluster: str,
    handler: Handler[Any],
    record: Record,
    *,
    environ: Mapping[str, str],
    timeout_seconds: float,
) -> ProbeReport:
    """Run one record through the handler. Raises ProbeTimedOut, ProbeStopped,
    ExecutorUnavailable."""
    found = await rehearse(
        config, cluster, handler, [record], environ=environ, timeout_seconds=timeout_seconds
    )
    completed = next(event for event in found.events if isinstance(event, MessageCompleted))
    return ProbeReport(
        fate=completed.fate,
        reason=completed.reason,
        events=found.events,
        deliveries=found.deliveries,
        letters=found.letters,
    )


async def rehearse(
    config: ClusterConfig,
    cluster: str,
    handler: Handler[Any],
    records: Sequence[Record],
    *,
    environ: Mapping[str, str],
    timeout_seconds: float,
    executor: Executor | None = None,
) -> Rehearsal:
    """Run records of the cluster's topic through the handler; ``executor`` stands in for the real
    programs. Raises ProbeTimedOut, ProbeStopped, ExecutorUnavailable."""
    kafka, config, watch = _cluster_of(records), _from_the_start(config), _Watch(len(records))
    if config.executor.mode == "persistent":  # Each slot would load what the program loads.
        one = config.executor.model_copy(update={"max_executors": 1})
        config = config.model_copy(update={"executor": one})
    if executor is None:
        executor, executor_watch = build_executor(config, environ)
    else:
        executor_watch = ExecutorWatch()
    worker = build_worker(
        config,
        describe_run(config, cluster, "probe", environ=environ, isolation=""),
        handler=handler,
        environ=environ,
        recorder=None,
        executor=executor,
        watch=executor_watch,
        loop=asyncio.get_running_loop(),
        make_broker=lambda group: MemoryBroker(kafka, group),
        make_letters=lambda: watch.letters,
        make_retries=_Records,
        make_sink=partial(_captured, config, cluster, watch.deliveries),
        last_resort=lambda seconds: None,
        listeners=(watch,),
    )
    await executor.start()
    await _run(worker, watch, timeout_seconds)
    places = {(record.topic, record.partition) for record in records}
    return Rehearsal(
        events=watch.events,
        deliveries=watch.deliveries,
        letters=watch.letters.headers,
        committed={
            partition: kafka.committed(config.kafka.group, topic, partition).offset
            for topic, partition in places
        },
    )


async def _run(worker: Worker, watch: _Watch, timeout_seconds: float) -> None:
    """Run the worker until the message has its fate; without one in time it is killed."""
    running = asyncio.create_task(worker.run())
    try:
        await _fate(watch, running, timeout_seconds)
    finally:
        worker.signal()
        if watch.obstacle or not watch.done.is_set():
            worker.signal()
        await running


async def _fate(watch: _Watch, running: asyncio.Task[int], timeout_seconds: float) -> None:
    fate = asyncio.create_task(watch.done.wait())
    await asyncio.wait(
        (fate, running), timeout=timeout_seconds, return_when=asyncio.FIRST_COMPLETED
    )
    fate.cancel()
    if watch.obstacle:
        raise ProbeStopped(watch.obstacle)
    if not watch.done.is_set():
        raise ProbeTimedOut(f"no fate within {timeout_seconds:g} s")


def _from_the_start(config: ClusterConfig) -> ClusterConfig:
    kafka = config.kafka.model_copy(update={"start_at": "earliest"})
    return config.model_copy(update={"kafka": kafka})


def _cluster_of(records: Sequence[Record]) -> MemoryCluster:
    """Return a topic that holds nothing but the records, each at its own place."""
    kafka = MemoryCluster()
    for record in sorted(records, key=lambda record: record.offset):
        kafka.create_partition(record.topic, record.partition)
        kafka.put(record)
    return kafka
