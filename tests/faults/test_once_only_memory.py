"""What is told delivered is stored: identity, and the memories that deliver once only.

A worker that was killed before its commit is played by a second group on the same records: what the
first one stored and remembered stands, what it committed is unknown.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from typing import Any

import psycopg
import pytest

from integration.services import postgres
from tests.support.pipeline import (
    TOPIC,
    Request,
    ShellHandler,
    cluster_config,
    new_cluster,
    running,
)
from workers.broker.memory import MemoryCluster
from workers.config import ClusterConfig
from workers.handler import (
    BatchGroup,
    Handler,
    Message,
    MessageGroup,
    Payload,
    Pending,
    PostgresPayload,
    Precomputed,
    Task,
    TaskResult,
)

TABLES = """
DROP TABLE IF EXISTS drakkar_deliveries, sums, others;
CREATE TABLE sums (names text[]);
CREATE TABLE others (names text[])
"""


@pytest.fixture
def dsn(postgres_server: postgres.RunningPostgres) -> str:
    with psycopg.connect(postgres_server.dsn, autocommit=True) as connection:
        connection.execute(TABLES)
    return postgres_server.dsn


def sums(dsn: str, table: str = "sums") -> list[list[str]]:
    with psycopg.connect(dsn) as connection:
        return sorted(row[0] for row in connection.execute(f"SELECT names FROM {table}"))


def section(dsn: str, **keys: Any) -> dict[str, Any]:
    return {"kind": "postgres", "dsn": dsn, "table": "sums", "dedup": True, "pool_max": 1, **keys}


def config(dsn: str, **sinks: dict[str, Any]) -> ClusterConfig:
    section_of = cluster_config().model_dump(mode="json")
    section_of["sinks"] = {"rows": section(dsn), **sinks}
    section_of["batch"] = {"max_messages": 100, "linger_ms": 300}
    return ClusterConfig.model_validate(section_of)


class Together(Handler[Request]):
    """One task for all messages of a call; its row holds their names. No process is started."""

    turn: Callable[[Sequence[int]], Sequence[int]] = staticmethod(sorted)

    async def arrange(
        self, messages: Sequence[Message[Request]], pending: Pending
    ) -> Sequence[Task]:
        return [
            Task(
                metadata=[one.payload.script for one in messages],
                source_offsets=self.turn([one.offset for one in messages]),
                precomputed=Precomputed(),
            )
        ]

    async def collect(self, result: TaskResult) -> Sequence[Payload]:
        return [PostgresPayload(sink="rows", row={"names": result.task.metadata})]


class Backwards(Together):
    turn = staticmethod(lambda offsets: sorted(offsets, reverse=True))


class OneEach(Together):
    """A task a message, and nothing to deliver for it."""

    async def arrange(
        self, messages: Sequence[Message[Request]], pending: Pending
    ) -> Sequence[Task]:
        return [Task(source_offsets=(one.offset,), precomputed=Precomputed()) for one in messages]

    async def collect(self, result: TaskResult) -> Sequence[Payload]:
        return ()


class ByBatch(OneEach):
    async def on_batch_complete(self, batch: BatchGroup[Request]) -> Sequence[Payload]:
        names = [group.message.payload.script for group in batch.groups]
        return [PostgresPayload(sink="rows", row={"names": names})]


class ByMessage(Together):
    """The first message of a call reports for all that its task served."""

    async def collect(self, result: TaskResult) -> Sequence[Payload]:
        return ()

    async def on_message_complete(self, group: MessageGroup[Request]) -> Sequence[Payload]:
        (result,) = group.results
        names = result.task.metadata
        is_first = names[0] == group.message.payload.script
        return [PostgresPayload(sink="rows", row={"names": names})] if is_first else ()


def log_of(names: str) -> MemoryCluster:
    """A fresh group's view of these messages; the record times are always the same."""
    cluster = new_cluster()
    for name in names:
        cluster.produce(TOPIC, 0, value=json.dumps({"script": name}).encode())
    return cluster


def run(cluster: MemoryCluster, handler: Handler[Any], config: ClusterConfig, count: int) -> Any:
    """One life of a worker on ``count`` messages; the events it told."""

    async def life() -> Any:
        async with running(cluster, config, handler) as live:
            await live.fates(count)
            assert await live.stop() == 0
            assert not live.letters.stored
            return live.heard

    return asyncio.run(life())


# -- 1. identity covers exactly the source messages ------------------------------------------------


@pytest.mark.parametrize("kind", [Together, ByBatch, ByMessage])
def test_a_message_that_came_after_the_kill_is_in_a_row(dsn: str, kind: type[Together]) -> None:
    run(log_of("ab"), kind({}), config(dsn), 2)
    assert sums(dsn) == [["a", "b"]]
    heard = run(log_of("abc"), kind({}), config(dsn), 3)
    assert [event.fate for event in heard.of("message_completed")] == ["delivered"] * 3
    assert ["a", "b", "c"] in sums(dsn)


@pytest.mark.parametrize("kind", [Together, ByBatch, ByMessage, Backwards])
def test_the_same_messages_again_add_nothing(dsn: str, kind: type[Together]) -> None:
    for handler in (kind({}), kind({}), kind({})):
        run(log_of("abc"), handler, config(dsn), 3)
    assert sums(dsn) == [["a", "b", "c"]]


def test_the_order_in_which_a_handler_lists_its_sources_does_not_count(dsn: str) -> None:
    run(log_of("abc"), Together({}), config(dsn), 3)
    run(log_of("abc"), Backwards({}), config(dsn), 3)
    assert sums(dsn) == [["a", "b", "c"]]


def test_two_tasks_of_one_message_keep_apart_whatever_else_the_call_holds(dsn: str) -> None:
    """The second task of ``a`` took the id that its first had beside a task for ``a`` and ``b``."""

    class Mixed(Together):
        async def arrange(
            self, messages: Sequence[Message[Request]], pending: Pending
        ) -> Sequence[Task]:
            both = [one.offset for one in messages]
            first = messages[0]
            wanted = [("all", both)] if len(both) > 1 else []
            wanted += [(f"{first.payload.script}{n}", [first.offset]) for n in (1, 2)]
            return [
                Task(metadata=[name], source_offsets=sources, precomputed=Precomputed())
                for name, sources in wanted
            ]

    run(log_of("a"), Mixed({}), config(dsn), 1)
    run(log_of("ab"), Mixed({}), config(dsn), 2)
    assert sums(dsn) == [["a1"], ["a2"], ["all"]]


def test_a_task_of_one_message_keeps_the_ids_it_always_had() -> None:
    async def life() -> tuple[list[str], list[str]]:
        cluster = new_cluster()
        for _ in range(2):
            cluster.produce(TOPIC, 0, value=b'{"script": "echo x"}')
        async with running(cluster, handler=ShellHandler({})) as live:
            await live.fates(2)
            await live.stop()
            tasks = [event.task_id for event in live.heard.of("task_completed")]
            return sorted(tasks), sorted(delivery.delivery_id for delivery in live.stored)

    tasks, deliveries = asyncio.run(life())
    assert tasks == ["0:0:0", "0:1:0"]
    assert deliveries == [
        f"main/{TOPIC}/0/{offset}/{1_700_000_000_000 + offset}/0/collect/0" for offset in (0, 1)
    ]


# -- 4. a replay header counts only where it was meant ---------------------------------------------


def test_a_header_copied_from_another_stage_does_not_skip_the_message(dsn: str) -> None:
    cluster = new_cluster()
    copied = ("drakkar-replay-of", b"first/other-topic/0/5/1700")
    cluster.produce(TOPIC, 0, value=b'{"script": "a"}', headers=(copied,))
    heard = run(cluster, Together({}), config(dsn), 1)
    assert [event.fate for event in heard.of("message_completed")] == ["delivered"]
    assert sums(dsn) == [["a"]]


def test_two_messages_with_one_copied_header_are_both_stored(dsn: str) -> None:
    cluster = new_cluster()
    copied = ("drakkar-replay-of", b"main/other-topic/0/5/1700")
    for name in "ab":
        value = json.dumps({"script": name}).encode()
        cluster.produce(TOPIC, 0, value=value, headers=(copied,))
    one_at_a_time = config(dsn).model_copy(
        update={"batch": config(dsn).batch.model_copy(update={"max_messages": 1})}
    )
    run(cluster, Together({}), one_at_a_time, 2)
    assert sums(dsn) == [["a"], ["b"]]
