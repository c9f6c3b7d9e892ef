"""How a worker ends when what it is made of does not end well."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from tests.support.pipeline import (
    TOPIC,
    Request,
    Running,
    ShellHandler,
    new_cluster,
    running,
)
from workers.executor.base import ExecutorUnavailable
from workers.handler import Message, Pending, Task

ECHO = b'{"script": "echo hi"}'


async def ended(live: Running, seconds: float = 10.0) -> int:
    return await asyncio.wait_for(asyncio.shield(live.done), seconds)


def test_what_does_not_close_keeps_nothing_else_open(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with running(new_cluster()) as live:
            await live.heard.until(lambda: bool(live.heard.of("assigned")))
            close = live.worker.executor.close

            async def broken() -> None:
                await close()
                raise TimeoutError("a spawner does not die")

            monkeypatch.setattr(live.worker.executor, "close", broken)
            live.worker.signal()
            assert await ended(live) == 1
            (stopped,) = live.heard.of("worker_stopped")
            assert not stopped.clean

    asyncio.run(scenario())


def test_offloaded_work_without_end_does_not_keep_a_worker_from_closing() -> None:
    gate = threading.Event()

    class Offloading(ShellHandler):
        left = 40
        all_begun: asyncio.Event

        async def arrange(
            self, messages: Sequence[Message[Request]], pending: Pending
        ) -> Sequence[Task]:
            self.left -= 1
            if self.left == 0:
                self.all_begun.set()
            await self.offload(gate.wait)
            return ()

    async def scenario() -> None:
        cluster = new_cluster(partitions=40)
        for partition in range(40):
            cluster.produce(TOPIC, partition, ECHO)
        handler = Offloading({})
        handler.all_begun = asyncio.Event()
        async with running(cluster, handler=handler) as live:
            await asyncio.wait_for(handler.all_begun.wait(), 10)
            live.worker.signal()
            live.worker.signal()
            try:
                assert await ended(live) == 1
                assert live.heard.of("worker_stopped")
            finally:
                gate.set()

    asyncio.run(scenario())


def test_a_worker_that_fails_leaves_its_group_and_cannot_hang() -> None:
    async def scenario() -> None:
        cluster = new_cluster()
        cluster.produce(TOPIC, 0, ECHO)
        async with running(cluster) as live:
            await live.fates(1)
            live.worker.fail(ExecutorUnavailable("no process can be started"))
            assert await ended(live) == 1
            async with running(cluster) as heir:
                await heir.heard.until(lambda: bool(heir.heard.of("assigned")))
                (assigned,) = heir.heard.of("assigned")
                assert assigned.committed == 1

    asyncio.run(scenario())
