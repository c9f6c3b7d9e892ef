"""Delayed retries over a retry topic, by a whole worker on a memory cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from domain.events import MessageCompleted, MessageDeferred, TaskStarted
from domain.fate import Fate
from tests.support.pipeline import (
    RETRY_TOPIC,
    TOPIC,
    Letters,
    Retries,
    Running,
    ShellHandler,
    cluster_config,
    new_cluster,
    running,
)
from workers.broker.memory import MemoryCluster
from workers.config import ClusterConfig
from workers.handler import DeadLetter, MemoryPayload, Retry, Task, TaskResult

DELAY_SECONDS = 0.3
GROUP = "group"


class Patient(ShellHandler):
    """A message is a list of scripts; a failed one runs again after a while, three times in all."""

    def parse(self, message: Any) -> Any:
        return message.value.decode().split("\n")

    async def arrange(self, messages: Any, pending: Any) -> Sequence[Task]:
        return [
            Task(args=("-c", script), source_offsets=(message.offset,))
            for message in messages
            for script in message.payload
        ]

    async def collect(self, result: TaskResult) -> Any:
        return [MemoryPayload(sink="store", value=result.stdout_text)]

    async def on_error(self, failure: Any) -> Any:
        if failure.attempt >= 3:
            return DeadLetter(reason=f"attempt {failure.attempt}")
        return Retry(delay_seconds=DELAY_SECONDS)


def config(**parts: Any) -> ClusterConfig:
    made = cluster_config(retry_in_place_seconds=0.1).model_dump()
    return ClusterConfig.model_validate({**made, "retry": {"topic": RETRY_TOPIC}, **parts})


def kafka(partitions: int = 1) -> MemoryCluster:
    cluster = new_cluster(partitions)
    cluster.create_topic(RETRY_TOPIC, 1)
    return cluster


def play(
    cluster: MemoryCluster,
    scene: Callable[[Running], Any],
    retries: Retries | None = None,
    letters: Letters | None = None,
    handler: type[ShellHandler] = Patient,
    of: ClusterConfig | None = None,
) -> None:
    async def main() -> None:
        async with running(
            cluster, of or config(), handler({}), letters=letters, retries=retries
        ) as live:
            await scene(live)

    asyncio.run(main())


def fates(live: Running) -> list[tuple[str, int, str]]:
    found: list[MessageCompleted] = live.heard.of("message_completed")
    return [(event.topic, event.offset, event.fate) for event in found]


def starts(live: Running) -> list[tuple[str, str, int]]:
    found: list[TaskStarted] = live.heard.of("task_started")
    return [(event.topic, event.task_id, event.attempt) for event in found]


def test_a_failed_task_runs_again_from_the_retry_topic_and_no_other() -> None:
    cluster = kafka()
    script = b"echo good\n[ $DRAKKAR_ATTEMPT = 2 ] && echo late"
    cluster.produce(TOPIC, 0, script, key=b"k", headers=[("h", b"1"), ("drakkar-due", b"x")])

    async def scene(live: Running) -> None:
        await live.fates(2)
        assert fates(live) == [(TOPIC, 0, Fate.DEFERRED), (RETRY_TOPIC, 0, Fate.DELIVERED)]
        assert sorted(starts(live)) == [
            (TOPIC, "0:0:0", 1), (TOPIC, "0:0:1", 1), (RETRY_TOPIC, "0:0:1", 2),
        ]  # fmt: skip
        (event,) = live.heard.of("deferred")
        assert isinstance(event, MessageDeferred)
        assert (event.retry_topic, event.retry_partition, event.retry_offset) == (RETRY_TOPIC, 0, 0)
        assert event.task_ids == ["0:0:1"]
        deferred, ended = live.heard.of("message_completed")
        assert ended.at - deferred.at >= DELAY_SECONDS - 0.1
        ids = [delivery.delivery_id for delivery in live.heard.of("delivered")]
        time_ms = 1_700_000_000_000
        assert sorted(ids) == [f"main/{TOPIC}/0/0/{time_ms}/{n}/collect/0" for n in (0, 1)]
        assert await live.stop() == 0
        assert live.committed() == 1
        assert cluster.committed(GROUP, RETRY_TOPIC, 0).offset == 1
        record = next(iter(cluster.logs[cluster.partitions_of(RETRY_TOPIC)[0]].records))
        assert (record.key, record.value, record.headers[0]) == (b"k", script, ("h", b"1"))
        assert [name for name, _ in record.headers].count("drakkar-due") == 1

    play(cluster, scene)
