"""One round of the pipeline in one process: no Kafka, no sink, one burst of messages.

``python pipeline_round.py MODE MESSAGES SLOTS [recorder]`` in the folder of a checkout, which need
not be this one: everything but this file comes from there. MODE: ``precomputed`` (no programs),
``fake`` (an executor that answers in the next turn of the loop), ``spawn`` (real ones). Says
``ready`` on stdout once warm and laden, starts at a line on stdin, then says the seconds that it
took, and ends at the next line. So whoever asks can read the CPU of its threads in between.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import inspect
import os
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, ClassVar

import django
from django.conf import settings

WARM_UP_MESSAGES = 2000
PARTITIONS = 50
RECORDED_SECONDS = 60.0


def module(*names: str) -> Any:
    """Import the first of these that the checkout has. Raises ImportError."""
    for name in names[:-1]:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError:
            continue
    return importlib.import_module(names[-1])


class NullSink:
    """Takes everything at once."""

    kind: ClassVar[str] = "kafka"

    def open(self) -> None:
        """Nothing to open."""

    def encode(self, delivery: Any) -> Any:
        return delivery

    def send(self, batch: Sequence[Any]) -> None:
        """Nothing to store."""

    deliver = send  # checkouts before sinks had an `encode`

    def close(self) -> None:
        """Nothing to close."""


class NoLetters:
    """A dead-letter topic that nothing may reach."""

    def write_record(self, *letter: Any) -> Any:
        raise AssertionError(f"a measured message was dead-lettered: {letter}")

    def close(self) -> None:
        """Nothing to close."""


class FakeExecutor:
    """Answers a launch in the next turn of the loop; no process is started."""

    isolation = launcher = cgroups = "none"
    spawner_pids: Sequence[int] = ()

    def __init__(self) -> None:
        seam = module("workers.executor.base")
        usage = module("domain.task").Usage()
        self._ended = seam.Exit(
            failure=None,
            detail="",
            exit_code=0,
            pid=1,
            stdout=b"",
            stderr=b"",
            stdout_size=0,
            stderr_size=0,
            truncated=False,
            started_at=time.monotonic(),
            duration_seconds=0.001,
            usage=usage,
        )

    async def start(self) -> None:
        """Nothing to start."""

    async def run(self, launch: Any, watcher: Any = None) -> Any:
        if hasattr(watcher, "started"):
            watcher.started(0, time.monotonic(), 1)
        elif watcher is not None:  # checkouts in which a function is told of the start
            watcher(0, time.monotonic())
        loop = asyncio.get_running_loop()
        ended = loop.create_future()
        loop.call_soon(self._end, ended)
        return await ended

    async def recall(self) -> None:
        """Nothing waits for a slot."""

    def _end(self, ended: asyncio.Future[Any]) -> None:
        if not ended.done():
            ended.set_result(self._ended)

    async def close(self) -> None:
        """Nothing to end."""


class Fates:
    """A listener that waits until so many messages have their fate."""

    def __init__(self) -> None:
        self._left = 0
        self._none_left = asyncio.Event()

    def expect(self, messages: int) -> None:
        self._left = messages
        self._none_left.clear()

    async def all_told(self) -> None:
        await self._none_left.wait()

    def __call__(self, event: Any) -> None:
        if event.kind == "message_completed":
            self._left -= 1
            if not self._left:
                self._none_left.set()


def load(cluster: Any, topic: str, messages: int) -> None:
    """Append messages evenly to all partitions."""
    for number in range(messages):
        value = f'{{"number": {number}, "sent_ns": {time.monotonic_ns()}}}'
        cluster.produce(topic, number % PARTITIONS, value.encode(), b"%d" % number)


def name_threads() -> None:
    """Let the kernel know the threads' names: old checkouts do not tell it."""
    for thread in threading.enumerate():
        if thread is not threading.main_thread():
            Path(f"/proc/self/task/{thread.native_id}/comm").write_text(thread.name[:15])


@dataclass(frozen=True)
class Pipeline:
    """A worker that has not run yet, and what stands around it."""

    worker: Any
    recorder: Any
    kafka: Any
    topic: str
    fates: Fates

    async def told(self, running: asyncio.Task[int]) -> None:
        """Return once every message has its fate. Raises RuntimeError when the worker ended."""
        told = asyncio.ensure_future(self.fates.all_told())
        await asyncio.wait((told, running), return_when=asyncio.FIRST_COMPLETED)
        if not told.done():
            raise RuntimeError(f"the worker ended: exit code {running.result()}")

    async def settled(self, running: asyncio.Task[int]) -> None:
        """Return once every message has its fate and all of it is recorded."""
        await self.told(running)
        if self.recorder is not None:
            await asyncio.to_thread(
                self.recorder.wait_for, lambda found: not found.buffer_events, RECORDED_SECONDS
            )


async def build(mode: str, has_recorder: bool) -> Pipeline:
    """Have the checkout's own composition make the worker."""
    product = module("workers.runtime.build", "workers.build")
    memory = module("workers.broker.memory")
    clusters: dict[str, Any] = settings.DRAKKAR.clusters  # type: ignore[union-attr]
    ((name, config),) = clusters.items()
    kafka, fates = memory.MemoryCluster(), Fates()
    kafka.create_topic(config.kafka.topic, PARTITIONS)
    wanted = inspect.signature(product.build_executor).parameters  # old ones: not the environment
    executor, watch = product.build_executor(*(config, dict(os.environ))[: len(wanted)])
    if mode == "fake":
        executor = FakeExecutor()
    await executor.start()
    run = product.describe_run(config, name, "bench", environ={}, isolation=executor.isolation)
    recorder = product.build_recorder(config, run) if has_recorder else None
    worker = product.build_worker(
        config,
        run,
        handler=product.load_handler(config),
        environ=dict(os.environ),
        recorder=recorder,
        executor=executor,
        watch=watch,
        loop=asyncio.get_running_loop(),
        make_broker=lambda group: memory.MemoryBroker(kafka, group),
        make_letters=NoLetters,
        make_sink=lambda _: NullSink(),
        last_resort=lambda _: None,
        listeners=(fates,),
    )
    return Pipeline(worker, recorder, kafka, config.kafka.topic, fates)


async def measure(pipeline: Pipeline, messages: int, answers: IO[str]) -> None:
    """Run the worker under two bursts, of which the second one is measured."""
    if pipeline.recorder is not None:
        pipeline.recorder.start()
    gc.freeze()
    gc.set_threshold(*module("workers.management.commands.runworker").GC_THRESHOLDS)
    running = asyncio.create_task(pipeline.worker.run())
    pipeline.fates.expect(WARM_UP_MESSAGES)
    load(pipeline.kafka, pipeline.topic, WARM_UP_MESSAGES)
    await pipeline.settled(running)
    name_threads()
    pipeline.fates.expect(messages)
    with pipeline.kafka.changed:  # the consumer thread sees nothing of it before the start
        load(pipeline.kafka, pipeline.topic, messages)
        print("ready", file=answers, flush=True)
        sys.stdin.readline()
        began = time.perf_counter()
    await pipeline.told(running)
    seconds = time.perf_counter() - began
    await pipeline.settled(running)
    print(seconds, file=answers, flush=True)
    sys.stdin.readline()
    pipeline.worker.signal()
    await running


async def run(mode: str, messages: int, has_recorder: bool, answers: IO[str]) -> None:
    await measure(await build(mode, has_recorder), messages, answers)


def main() -> None:
    """Measure, with stdout for the answers and everything else on stderr."""
    mode, messages, *more = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sys.path.insert(0, str(Path.cwd()))
    os.environ["DJANGO_SETTINGS_MODULE"] = "drakkar_site.settings"
    django.setup()
    asyncio.run(run(mode, int(messages), "recorder" in more, answers))
    os._exit(0)


if __name__ == "__main__":
    main()
