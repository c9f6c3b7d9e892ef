"""Whose fault an error is: one strange payload or answer is a letter, and its lane goes on.

Every case once stopped a whole lane: an exception in no table counted as an ill server.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar
from uuid import uuid4

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from pymongo import MongoClient
from redis import Redis

from domain.breaker import BreakerPolicy
from domain.payload import (
    HttpPayload,
    MemoryPayload,
    MongoPayload,
    Payload,
    PostgresPayload,
    RedisPayload,
)
from domain.retry import Backoff
from integration.services.mongo import RunningMongo
from integration.services.postgres import RunningPostgres
from integration.services.redis import RunningRedis
from sinks.backends.http import HttpSink, HttpSinkConfig
from sinks.backends.mongo import MongoSink, MongoSinkConfig
from sinks.backends.postgres import PostgresSink, PostgresSinkConfig
from sinks.backends.redis import RedisSink, RedisSinkConfig
from sinks.base import Delivery, Sink
from sinks.lane import Lane
from sinks.lane_queue import LanePolicy, OutcomeKind
from sinks.registry import SinkContext
from tests.support.http_server import answer, serving
from tests.support.lanes import Collector, entries_of

STORED, LETTER = OutcomeKind.DELIVERED, OutcomeKind.REFUSED
PATIENCE_SECONDS = 15.0
QUICK = Backoff(initial_seconds=0.05, factor=1, max_seconds=0.05, jitter=0)


def outcomes(sink: Sink, payloads: Sequence[Payload]) -> tuple[list[OutcomeKind | None], Collector]:
    """How each payload ended in a lane of this sink; None for what still waits."""

    async def scenario() -> tuple[list[OutcomeKind | None], Collector]:
        policy = LanePolicy(backoff=QUICK, breaker=BreakerPolicy(cooldown_seconds=0.2))
        lane = Lane("s", sink.kind, lambda: sink, policy)
        owner = Collector(len(payloads))
        lane.start()
        lane.pause()
        batch = [
            Delivery(payload=one, delivery_id=f"d{n}", topic="t", partition=0, offset=n)
            for n, one in enumerate(payloads)
        ]
        await lane.submit(entries_of(owner, batch))
        lane.resume()
        await asyncio.wait([asyncio.create_task(owner.done.wait())], timeout=PATIENCE_SECONDS)
        await lane.close(PATIENCE_SECONDS)
        found = [owner.outcomes.get(n) for n in range(len(payloads))]
        return [one.kind if one else None for one in found], owner

    return asyncio.run(scenario())


def context() -> SinkContext:
    return SinkContext(cluster=uuid4().hex, name="s", source_brokers="", source_client={})


@pytest.fixture
def table(postgres: RunningPostgres) -> str:
    """The DSN of a schema of its own with a table ``results``."""
    schema = f"s{uuid4().hex}"
    with psycopg.connect(postgres.dsn, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {schema}".encode())
        connection.execute(f"CREATE TABLE {schema}.results (id text, data jsonb)".encode())
    return f"{schema}.results"


def postgres_sink(postgres: RunningPostgres, table: str) -> PostgresSink:
    dsn = make_conninfo(postgres.dsn)
    config = PostgresSinkConfig(kind="postgres", dsn=dsn, table=table, timeout_seconds=5)
    return PostgresSink(config, context())


def test_a_time_in_a_json_column_is_stored(postgres: RunningPostgres, table: str) -> None:
    seen = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    rows: list[Payload] = [
        PostgresPayload(sink="s", row={"id": str(n), "data": {"seen": seen}}) for n in range(3)
    ]
    kinds, _ = outcomes(postgres_sink(postgres, table), rows)
    assert kinds == [STORED] * 3
    with psycopg.connect(postgres.dsn) as connection:
        found = connection.execute(
            f"SELECT DISTINCT data->>'seen' FROM {table}".encode()
        ).fetchall()
    assert [row[0] for row in found] == ["2026-01-02T03:04:05+00:00"]


@pytest.mark.parametrize("value", [{1, 2}, object(), b"bytes", float("nan")], ids=type)
def test_what_no_json_column_holds_is_a_letter_that_names_it(
    value: object, postgres: RunningPostgres, table: str
) -> None:
    payloads: list[Payload] = [
        PostgresPayload(sink="s", row={"id": "good", "data": {}}),
        PostgresPayload(sink="s", row={"id": "bad", "data": {"a": [value]}}),
        PostgresPayload(sink="s", row={"id": "good", "data": {}}),
    ]
    kinds, owner = outcomes(postgres_sink(postgres, table), payloads)
    assert kinds == [STORED, LETTER, STORED]
    assert "row.data.a[0]" in owner.outcomes[1].reason


@pytest.mark.parametrize(
    "wish",
    [
        "Mon, 01 Jan 2020 00:00:00 +999999999999999999999999",
        "Mon, 01 Jan 0001 00:00:00 +2359",
        "9" * 5000,
        "Mon, 99 Zzz 99999999999999999999 99:99:99",
    ],
)
def test_a_receivers_absurd_wish_stops_nothing(wish: str) -> None:
    with serving() as server:
        server.reply(answer(200), answer(200), answer(400, f"Retry-After: {wish}"), answer(200))
        config = HttpSinkConfig(kind="http", url=server.url, allow_private=True, max_batch=10)
        payloads: list[Payload] = [HttpPayload(sink="s", json=one) for one in ("a", "bad", "b")]
        kinds, _ = outcomes(HttpSink(config, context()), payloads)
    assert kinds == [STORED, LETTER, STORED]


def redis_sink(redis_server: RunningRedis) -> tuple[RedisSink, Redis, str]:
    prefix = f"{uuid4().hex}:"
    config = RedisSinkConfig(kind="redis", url=redis_server.url, key_prefix=prefix)
    return RedisSink(config, context()), Redis.from_url(redis_server.url), prefix


def test_a_key_that_is_no_text_is_told_where_the_payload_is_made() -> None:
    with pytest.raises(TypeError, match=r"RedisPayload\.key: expected text, got int 5"):
        RedisPayload(sink="s", key=5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("op", "value"),
    [("zadd", {"a": 10**400}), ("incr", 10**400), ("zadd", {"a": object()}), ("set", {"a": [{1}]})],
)
def test_a_value_that_redis_cannot_take_is_a_letter(
    op: Any, value: object, redis_server: RunningRedis
) -> None:
    sink, client, prefix = redis_sink(redis_server)
    payloads: list[Payload] = [
        RedisPayload(sink="s", key="first", value=1),
        RedisPayload(sink="s", key="bad", value=value, op=op),
        RedisPayload(sink="s", key="last", value=2),
    ]
    kinds, owner = outcomes(sink, payloads)
    assert kinds == [STORED, LETTER, STORED]
    assert "value" in owner.outcomes[1].reason
    assert client.mget([f"{prefix}first", f"{prefix}last"]) == [b"1", b"2"]
    client.close()


def nested(levels: int) -> dict[str, Any]:
    document: dict[str, Any] = {"n": 1}
    for _ in range(levels):
        document = {"inner": document}
    return document


def cyclic() -> dict[str, Any]:
    document: dict[str, Any] = {}
    document["self"] = document
    return document


@pytest.mark.parametrize("make", [cyclic, lambda: nested(200), lambda: nested(5000)])
def test_a_document_too_deep_is_a_letter(
    make: Callable[[], dict[str, Any]], mongo_server: RunningMongo
) -> None:
    database = f"d{uuid4().hex}"
    config = MongoSinkConfig(
        kind="mongo",
        uri=mongo_server.uri,
        database=database,
        collection="results",
        timeout_seconds=5,
    )
    payloads: list[Payload] = [
        MongoPayload(sink="s", document={"n": 1}),
        MongoPayload(sink="s", document={"deep": make()}),
        MongoPayload(sink="s", document={"n": 2}),
    ]
    kinds, owner = outcomes(MongoSink(config, context()), payloads)
    assert kinds == [STORED, LETTER, STORED]
    assert "document" in owner.outcomes[1].reason
    with MongoClient[dict[str, Any]](mongo_server.uri) as client:
        assert sorted(one["n"] for one in client[database]["results"].find()) == [1, 2]


class Plugin:
    """A sink of somebody's, with a bug for one value; of this seam and of the one before."""

    kind: ClassVar[str] = "memory"

    def __init__(self, error: BaseException) -> None:
        self.error = error
        self.stored: list[Any] = []

    def open(self) -> None:
        """Nothing to open."""

    def encode(self, delivery: Delivery) -> Any:
        return delivery

    def send(self, batch: Sequence[Any]) -> None:
        values = [one.payload.value for one in batch]
        if "bad" in values:
            raise self.error
        self.stored += values

    deliver = send

    def close(self) -> None:
        """Nothing to close."""


class Mute(Exception):
    """An error that cannot be shown."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    "error", [KeyError("bug"), RecursionError(), SystemExit("bug"), Mute(), OSError(36, "long")]
)
def test_an_error_in_no_table_is_narrowed_and_told_as_a_fault_of_ours(error: BaseException) -> None:
    sink = Plugin(error)
    values = [*range(10), "bad", *range(10, 20)]
    kinds, owner = outcomes(sink, [MemoryPayload(sink="s", value=value) for value in values])
    assert kinds == [LETTER if value == "bad" else STORED for value in values]
    assert sorted(sink.stored) == [*range(20)]
    assert "fault of Drakkar" in owner.outcomes[10].reason


def test_such_a_payload_alone_in_its_lane_does_not_hold_it_for_ever() -> None:
    kinds, _ = outcomes(Plugin(KeyError("bug")), [MemoryPayload(sink="s", value="bad")])
    assert kinds == [LETTER]
