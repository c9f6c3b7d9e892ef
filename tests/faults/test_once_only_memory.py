"""What is told delivered is stored: identity, and the memories that deliver once only.

A worker that was killed before its commit is played by a second group on the same records: what the
first one stored and remembered stands, what it committed is unknown.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from confluent_kafka import Consumer, TopicPartition
from redis import Redis

from domain.payload import FilePayload, HttpPayload, KafkaPayload, RedisPayload
from integration.services import postgres
from integration.services.kafka_mock import RunningMock
from integration.services.redis import RunningRedis
from sinks.base import Delivery
from sinks.lane import build_lane
from sinks.lane_queue import OutcomeKind
from sinks.registry import SinkContext, find
from tests.support.http_server import Server, serving
from tests.support.lanes import Collector, entries_of
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


def test_replays_of_all_its_messages_in_any_order_make_the_same_payload_again(dsn: str) -> None:
    run(log_of("ab"), Together({}), config(dsn), 2)
    cluster = new_cluster()
    for offset, name in ((1, "b"), (0, "a")):
        header = f"main/{TOPIC}/0/{offset}/{1_700_000_000_000 + offset}".encode()
        value = json.dumps({"script": name}).encode()
        cluster.produce(TOPIC, 0, value=value, headers=(("drakkar-replay-of", header),))
    run(cluster, Together({}), config(dsn), 2)
    assert sums(dsn) == [["a", "b"]]


def test_each_message_of_a_refused_payload_has_a_letter(dsn: str) -> None:
    """A letter for the lowest alone would, replayed, bring nothing of the others."""

    class Refused(Together):
        async def collect(self, result: TaskResult) -> Sequence[Payload]:
            bad = PostgresPayload(sink="rows", row={"names": "no array"})
            return [bad, bad]

    async def life() -> list[tuple[bytes | None, bool, bytes | None]]:
        async with running(log_of("abc"), config(dsn), Refused({})) as live:
            await live.fates(3)
            await live.stop()
            return [
                (value, "drakkar-payload" in headers, headers["drakkar-delivery-id"])
                for _, value, headers in live.letters.stored
            ]

    letters = asyncio.run(life())
    assert [json.loads(value or b"")["script"] for value, _, _ in letters] == list("abca")
    assert [has_payload for _, has_payload, _ in letters] == [True, False, False, True]
    assert len({delivery_id for _, _, delivery_id in letters[:3]}) == 1


# -- 2. every memory is scoped by sink and table ---------------------------------------------------


def settle(section: dict[str, Any], *payloads: Payload, name: str = "rows") -> list[str]:
    """Deliver in one batch through a lane of its own: what each payload was told, in order."""
    kind = find(section["kind"])
    context = SinkContext(cluster="main", name=name, source_brokers="", source_client={})

    async def life() -> list[str]:
        lane = build_lane(kind.config.model_validate(section), context, None)
        lane.start()
        owner = Collector(len(payloads))
        await lane.submit(entries_of(owner, [stamped(payload) for payload in payloads]))
        kinds = await owner.wait(60.0)
        await lane.close(10.0)
        return [found.name for found in kinds]

    return asyncio.run(life())


def stamped(payload: Payload) -> Delivery:
    """A delivery whose id is that of its ``delivery_key``."""
    delivery_id = f"main/{TOPIC}/key:{payload.delivery_key}"
    return Delivery(payload=payload, delivery_id=delivery_id, topic=TOPIC, partition=0, offset=0)


DELIVERED, REFUSED = OutcomeKind.DELIVERED.name, OutcomeKind.REFUSED.name


def row(name: str, key: str = "k", **fields: Any) -> PostgresPayload:
    return PostgresPayload(sink="rows", row={"names": [name]}, delivery_key=key, **fields)


def test_one_key_for_two_tables_is_stored_in_both(dsn: str) -> None:
    for _ in range(2):
        told = settle(section(dsn), row("a"), row("b", table="others"))
        assert told == [DELIVERED, DELIVERED]
    assert (sums(dsn), sums(dsn, "others")) == ([["a"]], [["b"]])


def test_one_key_for_two_sinks_is_stored_by_both(dsn: str) -> None:
    for name, table in (("rows", "sums"), ("more", "others")) * 2:
        assert settle(section(dsn, table=table), row(name), name=name) == [DELIVERED]
    assert (sums(dsn), sums(dsn, "others")) == ([["rows"]], [["more"]])


def test_two_sinks_of_one_table_store_one_key_each(dsn: str) -> None:
    for name in ("rows", "more") * 2:
        assert settle(section(dsn), row(name), name=name) == [DELIVERED]
    assert sums(dsn) == [["more"], ["rows"]]


BY_THE_OLD_RELEASE = (
    "INSERT INTO drakkar_deliveries (delivery_id) SELECT DISTINCT unnest(%s::text[]) "
    "ON CONFLICT DO NOTHING RETURNING delivery_id"
)


def test_what_an_old_ledger_holds_stands_and_its_workers_go_on(dsn: str) -> None:
    old, new = f"main/{TOPIC}/key:old", f"main/{TOPIC}/key:new"
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            "CREATE TABLE drakkar_deliveries "
            "(delivery_id text PRIMARY KEY, at timestamptz NOT NULL DEFAULT now())"
        )
        assert connection.execute(BY_THE_OLD_RELEASE, [[old]]).fetchall() == [(old,)]
        told = settle(section(dsn), row("old", "old"), row("new", "new"))
        assert told == [DELIVERED, DELIVERED]
        assert sums(dsn) == [["new"]]
        assert connection.execute(BY_THE_OLD_RELEASE, [[old, new]]).fetchall() == []


@pytest.fixture
def client(redis_server: RunningRedis) -> Iterator[Redis]:
    with Redis.from_url(redis_server.url, decode_responses=True) as client:
        client.flushdb()
        yield client


@pytest.fixture
def keys(redis_server: RunningRedis, client: Redis) -> dict[str, Any]:
    return {"kind": "redis", "url": redis_server.url, "key_prefix": "p:"}


def push(key: str, value: Any, **fields: Any) -> RedisPayload:
    fields = {"op": "push", "delivery_key": "k", **fields}
    return RedisPayload(sink="keys", key=key, value=value, **fields)


def test_one_key_for_two_redis_keys_ops_and_sinks_is_stored_for_each(
    keys: dict[str, Any], client: Redis
) -> None:
    for name in ("keys", "more") * 2:
        told = settle(
            keys,
            push("a", "x"),
            push("b", "x"),
            push("b", 10, op="trim"),
            push("n", 2, op="incr"),
            name=name,
        )
        assert told == [DELIVERED] * 4
    assert (client.llen("p:a"), client.llen("p:b"), client.get("p:n")) == (2, 2, "4")


def test_a_marker_of_the_old_release_stands_and_it_knows_the_new_ones(
    keys: dict[str, Any], client: Redis
) -> None:
    def marker(key: str) -> str:
        return f"p:drakkar:delivered:main/{TOPIC}/key:{key}"

    client.set(marker("old"), "1", nx=True, ex=100)
    told = settle(keys, push("a", "x", delivery_key="old"), push("b", "x", delivery_key="new"))
    assert told == [DELIVERED, DELIVERED]
    assert (client.llen("p:a"), client.llen("p:b")) == (0, 1)
    assert client.set(marker("new"), "1", nx=True, ex=100) is None
    assert 0 < client.ttl(marker("new")) <= 86_400


# -- 3. no marker without its effect ---------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 999, 1000, 1001, 7_990, 8_000, 50_000])
def test_a_push_of_any_size_is_there_when_it_is_told_delivered(
    keys: dict[str, Any], client: Redis, size: int
) -> None:
    items = [str(number) for number in range(size)]
    for _ in range(2):
        assert settle(keys, push("list", items)) == [DELIVERED]
    assert client.lrange("p:list", 0, -1) == items


@pytest.mark.parametrize(
    ("payload", "before"),
    [
        (push("k", ["a"] * 3000), {"set": ("p:k", "text")}),
        (push("k", 5, op="incr"), {"rpush": ("p:k", "a")}),
        (push("k", 1.5, op="incr"), {"rpush": ("p:k", "a")}),
        (push("k", 1, op="incr"), {"set": ("p:k", str(2**63 - 1))}),
        (push("k", 5, op="incr"), {"set": ("p:k", "no number")}),
        (push("k", 1.5, op="incr"), {"set": ("p:k", "no number")}),
        (push("k", 2**63, op="incr"), {}),
        (push("k", 10, op="trim"), {"set": ("p:k", "text")}),
        (push("k", [0, 2**63], op="trim"), {"rpush": ("p:k", "a")}),
    ],
)
def test_what_is_refused_leaves_no_marker_and_is_done_once_it_can_be(
    keys: dict[str, Any], client: Redis, payload: RedisPayload, before: dict[str, Any]
) -> None:
    for command, arguments in before.items():
        getattr(client, command)(*arguments)
    for _ in range(2):
        assert settle(keys, payload) == [REFUSED]
    assert client.keys("p:drakkar:*") == []
    client.delete("p:k")
    if payload.op == "push":
        assert settle(keys, payload) == [DELIVERED]
        assert client.llen("p:k") == 3000


def test_a_full_server_takes_no_marker(keys: dict[str, Any], client: Redis) -> None:
    used = int(client.info("memory")["used_memory"])
    client.config_set("maxmemory", used // 2)
    try:
        with pytest.raises(TimeoutError):
            asyncio.run(_told_within(keys, push("list", ["x" * 1000] * 3000), seconds=1.5))
        assert client.keys("*") == []
    finally:
        client.config_set("maxmemory", 0)
    assert settle(keys, push("list", ["x" * 1000] * 3000)) == [DELIVERED]
    assert client.llen("p:list") == 3000


async def _told_within(section: dict[str, Any], payload: Payload, seconds: float) -> None:
    kind = find(section["kind"])
    context = SinkContext(cluster="main", name="keys", source_brokers="", source_client={})
    lane = build_lane(kind.config.model_validate(section), context, None)
    lane.start()
    owner = Collector(1)
    entries = entries_of(owner, [stamped(payload)])
    await lane.submit(entries)
    try:
        await owner.wait(seconds)
    finally:
        lane.withdraw(entries)
        await lane.close(10.0)


@pytest.mark.parametrize("op", ["hset", "sadd", "zadd"])
def test_a_refused_payload_sets_no_time_to_live_on_what_another_keeps(
    keys: dict[str, Any], client: Redis, op: Any
) -> None:
    client.set("p:k", "another's")
    value = {"a": 1} if op != "sadd" else ["a"]
    assert settle(keys, push("k", value, op=op, ttl_seconds=60)) == [REFUSED]
    assert client.ttl("p:k") == -1


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


# -- 4b. our own headers are not taken over --------------------------------------------------------


def test_the_headers_of_an_input_may_be_copied_to_an_output(kafka_mock: RunningMock) -> None:
    topic = f"out-{uuid4().hex}"
    kafka_mock.create_topic(topic, 1)
    copied = {
        "drakkar-replay-of": f"main/{TOPIC}/0/5/1700",
        "Drakkar-Edited-By": "mara",
        "drakkar-delivery-id": "of-the-input",
        "kept": "yes",
    }
    out = {"kind": "kafka", "topic": topic, "brokers": kafka_mock.brokers}
    sent = KafkaPayload(sink="out", value="x", headers=copied, delivery_key="k")
    assert settle(out, sent, name="out") == [DELIVERED]
    headers = dict(record_of(kafka_mock.brokers, topic).headers() or [])
    assert headers.pop("drakkar-delivery-id") != b"of-the-input"
    assert headers == {"kept": b"yes"}


def record_of(brokers: str, topic: str) -> Any:
    consumer = Consumer({"bootstrap.servers": brokers, "group.id": "x"})
    consumer.assign([TopicPartition(topic, 0, 0)])
    try:
        found = consumer.poll(20.0)
        assert found is not None
        assert found.error() is None
        return found
    finally:
        consumer.close()


@pytest.fixture
def web() -> Iterator[Server]:
    with serving() as server:
        yield server


def test_the_headers_of_an_input_may_be_copied_to_a_request(web: Server) -> None:
    headers = {"Drakkar-Replay-Of": "main/t/0/5/7", "drakkar-edited-by": "mara", "X-Kept": "yes"}
    receiver = {"kind": "http", "url": web.url, "allow_private": True}
    payload = HttpPayload(sink="web", json=1, headers=headers, delivery_key="k")
    assert settle(receiver, payload, name="web") == [DELIVERED]
    sent = next(one.headers for one in web.requests if one.method == "POST")
    assert sent["x-kept"] == "yes"
    assert not [name for name in sent if name.startswith("drakkar-")]


def test_one_key_for_two_paths_is_two_idempotency_keys(web: Server) -> None:
    """A receiver drops a key that it knows, whatever else the request holds."""
    receiver = {"kind": "http", "url": web.url, "allow_private": True}
    for name in ("web", "more"):
        paths = [HttpPayload(sink=name, json=1, path=path, delivery_key="k") for path in "ab"]
        assert settle(receiver, *paths * 2, name=name) == [DELIVERED] * 4
    posted = [one for one in web.requests if one.method == "POST"]
    by_key = {one.headers["idempotency-key"] for one in posted}
    assert (len(posted), len(by_key)) == (8, 4)


def test_one_key_for_two_files_is_two_ids(tmp_path: Path) -> None:
    """A reader of a folder drops a line whose ``_delivery_id`` it knows."""
    folder = {"kind": "file", "base_path": str(tmp_path)}
    for name in ("files", "more"):
        lines = [FilePayload(sink=name, path=p, record={}, delivery_key="k") for p in "ab"]
        assert settle(folder, *lines, name=name) == [DELIVERED] * 2
    read = [json.loads(line) for p in "ab" for line in (tmp_path / p).read_text().splitlines()]
    assert len({line["_delivery_id"] for line in read}) == len(read) == 4


# -- 5. what is old is forgotten -------------------------------------------------------------------


def test_a_ledger_forgets_what_is_older_than_a_week(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if find_spec("sinks.delivery_ledger"):
        monkeypatch.setattr("sinks.delivery_ledger.FIRST_SECONDS", 0.1)
    settle(section(dsn), *(row("a", f"old-{n}") for n in range(3)), row("a", "young"))
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            "UPDATE drakkar_deliveries SET at = now() - interval '7 days 1 minute' "
            "WHERE delivery_id LIKE '%:old-%'"
        )

        async def life() -> list[Any]:
            config_of = find("postgres").config.model_validate(section(dsn))
            context = SinkContext(cluster="main", name="rows", source_brokers="", source_client={})
            lane = build_lane(config_of, context, None)
            lane.start()
            deadline = time.monotonic() + 15
            held: list[Any] = []
            while time.monotonic() < deadline:
                held = connection.execute("SELECT delivery_id FROM drakkar_deliveries").fetchall()
                if len(held) == 1:
                    break
                await asyncio.sleep(0.1)
            await lane.close(10.0)
            return held

        assert asyncio.run(life()) == [(f"main/{TOPIC}/key:young",)]
