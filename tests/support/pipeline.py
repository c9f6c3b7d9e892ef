"""A whole worker in one process: memory broker, memory sink, memory letters, real processes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from domain.backpressure import Budget, Marks
from domain.events import Event, tell_each
from domain.retry import Backoff
from recorder.runs import RunDescription, uuid7
from sinks.backends.memory import STORES
from sinks.base import TransientError
from sinks.dead_letter import DeadLetterWriter, LetterReceipt, LetterStamp
from sinks.lane import build_lane
from sinks.registry import SinkContext
from sinks.router import Router
from workers.arranging import Arranging
from workers.broker.base import GroupConfig
from workers.broker.memory import MemoryBroker, MemoryCluster
from workers.clock import Clock
from workers.config import ClusterConfig
from workers.consumer import Owner, OwnerPolicy
from workers.executor.slots import Slots
from workers.executor.spawn import SpawnExecutor
from workers.handler import Handler, MemoryPayload, Message, Payload, Pending, Task, TaskResult
from workers.hooks import Hooks
from workers.listeners.metrics import Counters
from workers.ownership import WantedBoard
from workers.task_run import TaskRunner
from workers.worker import Worker, WorkerParts

TOPIC = "requests"
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

    def write_letter(
        self,
        key: bytes | None,
        value: bytes | None,
        headers: list[tuple[str, bytes | None]],
        partition: int,
    ) -> LetterReceipt:
        if self.is_down:
            raise TransientError("down on purpose")
        self.stored.append((key, value, dict(headers)))
        return LetterReceipt(topic="dlq", partition=partition, offset=len(self.stored) - 1)

    def close(self) -> None:
        """Letters stay."""


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
) -> AsyncIterator[Running]:
    """Run a worker until the block ends; its stores start empty."""
    config = config or cluster_config()
    handler = handler or ShellHandler({}, max_retries=config.executor.max_retries)
    letters, heard = letters or Letters(), Heard()
    STORES["store"].clear()
    broker = MemoryBroker(cluster, GroupConfig.from_config(config.kafka), session_seconds)
    worker = _compose(broker, config, handler, letters, heard)
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
    heard: Heard,
) -> Worker:
    clock, counters = Clock(), Counters()
    tell = tell_each(counters, heard)
    hooks = Hooks(clock=clock, tell=tell, timeout_seconds=None)
    slots = Slots(config.executor.max_executors)
    executor = SpawnExecutor(spawners=1, on_spawner_lost=lambda pid, tasks, detail: None)
    budget: Budget[Any] = Budget(
        Marks(high_messages=config.high_messages, high_bytes=config.backpressure.high_bytes)
    )
    board = WantedBoard(budget.room_messages)
    context = SinkContext(cluster="main", name="store", source_brokers="", source_client={})
    lanes = {"store": build_lane(config.sinks["store"], context, None)}
    holder: list[Worker] = []
    writer = DeadLetterWriter(
        lambda: letters,
        LetterStamp(cluster="main", group="group", worker="w"),
        wall=clock.wall,
        on_writable=lambda is_writable, detail: holder[0].letters_writable(is_writable, detail),
    )
    run = RunDescription(
        id=uuid7(clock.wall()),
        cluster="main",
        worker="w",
        host="h",
        pid=1,
        version="0",
        isolation=executor.isolation,
        slots=slots.count,
        config_hash="",
        config={},
        environment={},
        started_at=clock.wall(),
    )
    parts = WorkerParts(
        config=config,
        run=run,
        handler=handler,
        hooks=hooks,
        arranging=Arranging(
            handler=handler,
            hooks=hooks,
            cluster="main",
            on_parse_error=config.kafka.on_parse_error,
        ),
        runner=TaskRunner(
            handler=handler,
            hooks=hooks,
            executor=executor,
            slots=slots,
            config=config.executor,
            base_env={"PATH": "/usr/bin:/bin"},
            cluster="main",
            clock=clock,
            tell=tell,
            backoff=Backoff(initial_seconds=0.01, max_seconds=0.05),
        ),
        executor=executor,
        slots=slots,
        lanes=lanes,
        dead_letters=writer,
        router=Router(lanes, writer, tell=tell, wall=clock.wall),
        recorder=None,
        counters=counters,
        board=board,
        budget=budget,
        clock=clock,
        tell=tell,
        last_resort=lambda seconds: None,
    )
    worker = Worker(parts)
    holder.append(worker)
    policy = OwnerPolicy(run=str(run.id), slice_seconds=0.01, revoke_timeout_seconds=5)
    listener = worker.listener(asyncio.get_running_loop())
    worker.attach(Owner(broker, listener, board, policy))
    return worker


def new_cluster(partitions: int = 1) -> MemoryCluster:
    """An empty cluster with the source topic."""
    cluster = MemoryCluster(time.monotonic)
    cluster.create_topic(TOPIC, partitions)
    return cluster


__all__ = ["Letters", "Running", "ShellHandler", "cluster_config", "new_cluster", "running"]
