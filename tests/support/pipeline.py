"""A whole worker in one process: memory broker, memory sink, memory letters, real processes."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from domain.events import Event
from recorder.run_changes import RunChanges
from sinks.backends.memory import STORES
from sinks.base import PermanentError, TransientError
from sinks.record_writer import RecordReceipt
from workers.broker.base import GroupConfig
from workers.broker.memory import MemoryBroker, MemoryCluster
from workers.config import ClusterConfig
from workers.handler import Handler, MemoryPayload, Message, Payload, Pending, Task, TaskResult
from workers.runtime.build import build_executor, build_worker, describe_run
from workers.runtime.worker import Worker

TOPIC = "requests"
RETRY_TOPIC = "requests_retry"
WAIT_SECONDS = 20.0


class Request(BaseModel):
    """What a test message asks for: a shell script."""

    script: str


class ShellHandler(Handler[Request]):
    """Runs the script; delivers its output."""

    async def arrange(
        self, messages: Sequence[Message[Request]], pending: Pending
    ) -> Sequence[Task]:
        return [
            Task(args=("-c", message.payload.script), source_offsets=(message.offset,))
            for message in messages
        ]

    async def collect(self, result: TaskResult) -> Sequence[Payload]:
        return [MemoryPayload(sink="store", value=result.stdout_text)]


@dataclass
class Letters:
    """A dead-letter topic in memory; ``is_down`` refuses letters."""

    stored: list[tuple[bytes | None, bytes | None, dict[str, bytes | None]]] = field(
        default_factory=list
    )
    is_down: bool = False

    def write_record(
        self,
        key: bytes | None,
        value: bytes | None,
        headers: list[tuple[str, bytes | None]],
        partition: int,
    ) -> RecordReceipt:
        if self.is_down:
            raise TransientError("down on purpose")
        self.stored.append((key, value, dict(headers)))
        return RecordReceipt(topic="dlq", partition=partition, offset=len(self.stored) - 1)

    def close(self) -> None:
        """Letters stay."""


class Retries:
    """The retry topic in a memory cluster. ``is_down``: it takes nothing; ``most_bytes``: of a
    value; ``hold``: it keeps the answer to itself."""

    def __init__(self, cluster: MemoryCluster) -> None:
        self.cluster = cluster
        self.is_down = False
        self.most_bytes: int | None = None
        self.answers = threading.Event()
        self.answers.set()

    def write_record(
        self,
        key: bytes | None,
        value: bytes | None,
        headers: list[tuple[str, bytes | None]],
        partition: int,
    ) -> RecordReceipt:
        if self.is_down:
            raise TransientError("down on purpose")
        if self.most_bytes is not None and len(value or b"") > self.most_bytes:
            raise PermanentError("too large on purpose")
        partition %= len(self.cluster.partitions_of(RETRY_TOPIC))
        offset = self.cluster.produce(RETRY_TOPIC, partition, value, key, headers)
        self.answers.wait(WAIT_SECONDS)
        return RecordReceipt(topic=RETRY_TOPIC, partition=partition, offset=offset)

    def close(self) -> None:
        """What was written stays."""


class Heard:
    """Every event told, and a way to await one."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._changed = asyncio.Event()

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        self._changed.set()

    def of(self, kind: str) -> list[Any]:
        return [event for event in self.events if event.kind == kind]

    async def until_next(self) -> None:
        """Wait for one more event."""
        count = len(self.events)
        await self.until(lambda: len(self.events) > count)

    async def until(self, is_there: Callable[[], bool]) -> None:
        async with asyncio.timeout(WAIT_SECONDS):
            while not is_there():
                self._changed.clear()
                await self._changed.wait()


@dataclass
class Running:
    """A running worker and what can be looked at."""

    worker: Worker
    heard: Heard
    letters: Letters
    cluster: MemoryCluster
    sink: str
    done: asyncio.Task[int]
    broker: MemoryBroker

    @property
    def stored(self) -> list[Any]:
        return STORES[self.sink]

    async def fates(self, count: int) -> None:
        await self.heard.until(lambda: len(self.heard.of("message_completed")) >= count)

    def committed(self, partition: int = 0) -> int | None:
        return self.cluster.committed("group", TOPIC, partition).offset

    async def stop(self) -> int:
        self.worker.signal()
        async with asyncio.timeout(WAIT_SECONDS):
            return await self.done


def cluster_config(**executor: Any) -> ClusterConfig:
    """A configuration for tests: sh as the program, one memory sink."""
    return ClusterConfig.model_validate(
        {
            "handler": "tests.support.pipeline:ShellHandler",
            "kafka": {"topic": TOPIC, "group": "group"},
            "executor": {
                "binary": "/bin/sh",
                "max_executors": 2,
                "spawners": 1,
                "kill_grace_seconds": 0.2,
                "retry_backoff": {"initial_seconds": 0.01},
                **executor,
            },
            "drain_timeout_seconds": 10,
            "sinks": {"store": {"kind": "memory", "linger_ms": 1}},
        }
    )


@asynccontextmanager
async def running(
    cluster: MemoryCluster,
    config: ClusterConfig | None = None,
    handler: Handler[Any] | None = None,
    letters: Letters | None = None,
    session_seconds: float = 30.0,
    retries: Retries | None = None,
    changes: RunChanges | None = None,
) -> AsyncIterator[Running]:
    """Run a worker until the block ends; its stores start empty."""
    config = config or cluster_config()
    handler = handler or ShellHandler({}, max_retries=config.executor.max_retries)
    letters, heard = letters or Letters(), Heard()
    STORES["store"].clear()
    group = GroupConfig.from_config(config.kafka, config.retry.topic)
    broker = MemoryBroker(cluster, group, session_seconds)
    retries = retries or Retries(cluster)
    changes = changes or RunChanges()
    worker = _compose(broker, config, handler, letters, retries, heard, changes)
    await worker.executor.start()
    done = asyncio.create_task(worker.run())
    live = Running(worker, heard, letters, cluster, "store", done, broker)
    try:
        yield live
    finally:
        if not done.done():
            if not worker.is_stopping:
                worker.signal()
            worker.signal()
            await asyncio.wait([done], timeout=WAIT_SECONDS)


def _compose(
    broker: MemoryBroker,
    config: ClusterConfig,
    handler: Handler[Any],
    letters: Letters,
    retries: Retries,
    heard: Heard,
    changes: RunChanges,
) -> Worker:
    """The product's own composition, with other adapters."""
    environ = {"PATH": "/usr/bin:/bin"}
    executor, watch = build_executor(config, environ)
    return build_worker(
        config,
        describe_run(config, "main", "w", environ=environ, isolation=""),
        handler=handler,
        environ=environ,
        recorder=None,
        executor=executor,
        watch=watch,
        loop=asyncio.get_running_loop(),
        make_broker=lambda _: broker,
        make_letters=lambda: letters,
        make_retries=lambda: retries,
        last_resort=lambda seconds: None,
        listeners=(heard,),
        changes=changes,
    )


def new_cluster(partitions: int = 1) -> MemoryCluster:
    """An empty cluster with the source topic."""
    cluster = MemoryCluster(time.monotonic)
    cluster.create_topic(TOPIC, partitions)
    return cluster


__all__ = ["Letters", "Running", "ShellHandler", "cluster_config", "new_cluster", "running"]
