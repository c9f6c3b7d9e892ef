"""A drain leaves nothing that the heir would do a second time (docs/decisions/0002)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest

from tests.support.pipeline import (
    TOPIC,
    Letters,
    Request,
    Running,
    ShellHandler,
    new_cluster,
    running,
)
from workers.broker.memory import MemoryCluster
from workers.handler import (
    BatchGroup,
    MemoryPayload,
    MessageGroup,
    Payload,
    Retry,
    TaskDecision,
    TaskFailure,
    TaskResult,
)

LATE = json.dumps({"script": "test $DRAKKAR_ATTEMPT -ge 2 && echo late"}).encode()
SOON = json.dumps({"script": "echo soon"}).encode()


class Patient(ShellHandler):
    """Waits long before a retry."""

    async def on_error(self, failure: TaskFailure) -> TaskDecision:
        return Retry(delay_seconds=300)


class Completing(Patient):
    """Delivers when a message ended, and not before ``gate``."""

    gate: asyncio.Event
    asked: asyncio.Event

    async def collect(self, result: TaskResult) -> Sequence[Payload]:
        return ()

    async def on_message_complete(self, group: MessageGroup[Request]) -> Sequence[Payload]:
        if group.message.value == SOON:
            self.asked.set()
            await self.gate.wait()
        return [MemoryPayload(sink="store", value=group.results[0].stdout_text)]


class Batching(Patient):
    """Delivers when a batch ended, and not before ``gate``."""

    gate: asyncio.Event
    asked: asyncio.Event

    async def collect(self, result: TaskResult) -> Sequence[Payload]:
        return ()

    async def on_batch_complete(self, batch: BatchGroup[Request]) -> Sequence[Payload]:
        if batch.groups[0].message.value == SOON:
            self.asked.set()
            await self.gate.wait()
        return [
            MemoryPayload(sink="store", value=group.results[0].stdout_text)
            for group in batch.groups
        ]


async def the_drain_chose(live: Running, starts: int) -> None:
    """What lies below is run again, or was dropped."""
    told = live.heard.of
    await live.heard.until(
        lambda: bool(told("task_cancelled")) or len(told("task_started")) > starts
    )


async def heirs_work(cluster: MemoryCluster, handler: Any, count: int) -> list[str]:
    """What the next owner delivers of so many messages, all told."""
    left = count - (cluster.committed("group", TOPIC, 0).offset or 0)
    async with running(cluster, handler=handler) as heir:
        await heir.fates(left)
        assert await heir.stop() == 0
        return [delivery.payload.value for delivery in heir.stored]


@pytest.mark.parametrize("kind", [Completing, Batching])
def test_what_a_completion_hook_has_in_hand_is_not_delivered_again(
    kind: type[Completing] | type[Batching],
) -> None:
    async def scenario() -> None:
        cluster, handler = new_cluster(), kind({})
        handler.gate, handler.asked = asyncio.Event(), asyncio.Event()
        cluster.produce(TOPIC, 0, value=LATE)
        async with running(cluster, handler=handler) as live:
            await live.heard.until(lambda: bool(live.heard.of("task_retried")))
            cluster.produce(TOPIC, 0, value=SOON)
            await asyncio.wait_for(handler.asked.wait(), 10)
            live.worker.signal()
            await the_drain_chose(live, 2)
            handler.gate.set()
            assert await asyncio.wait_for(live.done, 20) == 0
            seen = [delivery.payload.value for delivery in live.stored]
        seen += await heirs_work(cluster, handler, 2)
        assert sorted(seen) == ["late\n", "soon\n"]

    asyncio.run(scenario())


def test_a_letter_on_its_way_is_not_written_again() -> None:
    async def scenario() -> None:
        cluster, letters = new_cluster(), Letters(is_down=True)
        cluster.produce(TOPIC, 0, value=LATE)
        async with running(cluster, handler=Patient({}), letters=letters) as live:
            await live.heard.until(lambda: bool(live.heard.of("task_retried")))
            cluster.produce(TOPIC, 0, value=b"not json")
            await live.heard.until(lambda: bool(live.heard.of("parked")))
            live.worker.signal()
            await the_drain_chose(live, 1)
            letters.is_down = False
            assert await asyncio.wait_for(live.done, 20) == 0
            seen = [delivery.payload.value for delivery in live.stored]
        assert len(letters.stored) == 1
        async with running(cluster, handler=Patient({}), letters=letters) as heir:
            await heir.fates(2 - (cluster.committed("group", TOPIC, 0).offset or 0))
            seen += [delivery.payload.value for delivery in heir.stored]
        assert (len(letters.stored), seen) == (1, ["late\n"])

    asyncio.run(scenario())
