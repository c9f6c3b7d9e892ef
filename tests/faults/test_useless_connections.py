"""Connections that answer but are useless are made anew, and no good row is lost over one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from redis import Redis

from domain.breaker import BreakerPolicy
from domain.payload import HttpPayload, MongoPayload, Payload, PostgresPayload, RedisPayload
from domain.retry import Backoff
from integration.services import redis as redis_service
from integration.services.mongo import RunningMongo
from integration.services.ports import LOOPBACK
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
from tests.support.proxy import Proxy

QUICK = Backoff(initial_seconds=0.05, factor=1, max_seconds=0.05, jitter=0)
STORED = OutcomeKind.DELIVERED
PATIENCE_SECONDS = 8.0


class Running:
    """A lane on a loop of a thread of its own, so that a test may torment the server meanwhile."""

    def __init__(self, sink: Sink) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        breaker = BreakerPolicy(failure_threshold=1000)
        policy = LanePolicy(backoff=QUICK, breaker=breaker, max_batch=50)
        self._lane = Lane("s", sink.kind, lambda: sink, policy)
        self._on_loop(self._start())

    def _on_loop(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(60)

    async def _start(self) -> None:
        self._lane.start()

    def outcomes(
        self, payloads: Sequence[Payload], seconds: float = PATIENCE_SECONDS
    ) -> list[OutcomeKind | None]:
        """How these end in time; None for what still waits."""

        async def scenario() -> list[OutcomeKind | None]:
            owner = Collector(len(payloads))
            batch = [
                Delivery(payload=one, delivery_id=uuid4().hex, topic="t", partition=0, offset=n)
                for n, one in enumerate(payloads)
            ]
            await self._lane.submit(entries_of(owner, batch))
            await asyncio.wait([asyncio.create_task(owner.done.wait())], timeout=seconds)
            found = [owner.outcomes.get(n) for n in range(len(payloads))]
            return [one.kind if one else None for one in found]

        found: list[OutcomeKind | None] = self._on_loop(scenario())
        return found

    def close(self) -> None:
        self._on_loop(self._lane.close(10.0))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


@contextmanager
def running(sink: Sink) -> Iterator[Running]:
    lane = Running(sink)
    try:
        yield lane
    finally:
        lane.close()


def context() -> SinkContext:
    return SinkContext(cluster=uuid4().hex, name="s", source_brokers="", source_client={})


@pytest.fixture
def replica(tmp_path: Any) -> Iterator[RunningRedis]:
    with redis_service.running(tmp_path) as server:
        yield server


def test_a_redis_primary_that_became_a_replica_is_left(
    redis_server: RunningRedis, replica: RunningRedis
) -> None:
    """Behind one address, as a name in the DNS: the old primary keeps its connections."""
    old, new = Redis.from_url(replica.url), Redis.from_url(redis_server.url)
    prefix = f"{uuid4().hex}:"
    with Proxy(LOOPBACK, int(replica.url.split(":")[-1].split("/")[0])) as proxy:
        config = RedisSinkConfig(
            kind="redis", url=redis_service.url(proxy.port), key_prefix=prefix, timeout_seconds=3
        )
        with running(RedisSink(config, context())) as lane:
            assert lane.outcomes([RedisPayload(sink="s", key="a", value=1)]) == [STORED]
            assert old.get(f"{prefix}a") == b"1"
            old.replicaof(LOOPBACK, 1)
            proxy._target = (LOOPBACK, int(redis_server.url.split(":")[-1].split("/")[0]))
            assert lane.outcomes([RedisPayload(sink="s", key="b", value=2)]) == [STORED]
            assert new.get(f"{prefix}b") == b"2"
    old.close()
    new.close()


@pytest.fixture
def table(postgres: RunningPostgres) -> Iterator[str]:
    name = f"t{uuid4().hex}"
    with psycopg.connect(postgres.dsn, autocommit=True) as connection:
        connection.execute(f"CREATE TABLE {name} (id text, n int)".encode())
        yield name
        connection.execute(f"DROP TABLE {name}".encode())


def postgres_sink(postgres: RunningPostgres, table: str, more: str = "") -> PostgresSink:
    dsn = f"{postgres.dsn}{more}"
    config = PostgresSinkConfig(kind="postgres", dsn=dsn, table=table, timeout_seconds=5)
    return PostgresSink(config, context())


def rows(*numbers: Any) -> list[Payload]:
    return [PostgresPayload(sink="s", row={"id": str(n), "n": n}) for n in numbers]


@pytest.mark.parametrize(
    ("type_name", "good"),
    [
        ("text", "x"),
        ("jsonb", "[1]"),
        ("uuid", "57d08738-9cd3-44e0-aa7a-f2f45007b90a"),
        ("date", "2026-01-02"),
    ],
)
def test_a_columns_type_changed_under_a_prepared_statement_loses_no_row(
    type_name: str, good: str, postgres: RunningPostgres, table: str
) -> None:
    """42804 of the statement prepared for the old type, not of the row."""
    with running(postgres_sink(postgres, table)) as lane:
        for _ in range(8):  # as often as it takes until the driver prepares
            assert lane.outcomes(rows("1", "2")) == [STORED] * 2
        with psycopg.connect(postgres.dsn, autocommit=True) as connection:
            change = f"ALTER TABLE {table} ALTER COLUMN n TYPE {type_name} USING NULL"
            connection.execute(change.encode())
        assert lane.outcomes(rows(good)) == [STORED]


def test_a_postgres_that_became_read_only_is_left(postgres: RunningPostgres, table: str) -> None:
    """25006: the sessions of before the change are of no use, new ones are."""
    with psycopg.connect(postgres.dsn, autocommit=True) as connection:
        change = (
            f'ALTER DATABASE "{connection.info.dbname}" {{}} default_transaction_read_only {{}}'
        )
        connection.execute(change.format("SET", "= on").encode())
        with running(postgres_sink(postgres, table)) as lane:
            try:
                assert lane.outcomes(rows(1), seconds=1.0) == [None]
            finally:
                connection.execute(change.format("RESET", "").encode())
            assert lane.outcomes(rows(2)) == [STORED]


def test_a_dsn_may_ask_for_no_prepared_statements(postgres: RunningPostgres, table: str) -> None:
    """As PgBouncer's transaction pooling needs it: no options, no statement of the session's."""
    more = "&prepare_threshold=none" if "?" in postgres.dsn else " prepare_threshold=none"
    if "://" in postgres.dsn and "?" not in postgres.dsn:
        more = "?prepare_threshold=none"
    with running(postgres_sink(postgres, table, more)) as lane:
        for _ in range(8):
            assert lane.outcomes(rows(1, 2)) == [STORED] * 2


def test_an_http_connection_to_a_server_of_before_is_left() -> None:
    """A kept connection leads to the old server, which answers 503; a new one to the new."""
    with serving() as old, serving() as new, Proxy(LOOPBACK, old.port) as proxy:
        old.reply(answer(200), answer(200), *[answer(503)] * 500)
        url = f"http://{proxy.address}/"
        config = HttpSinkConfig(kind="http", url=url, allow_private=True, timeout_seconds=3)
        with running(HttpSink(config, context())) as lane:
            assert lane.outcomes([HttpPayload(sink="s", json=1)]) == [STORED]
            proxy._target = (LOOPBACK, new.port)
            assert lane.outcomes([HttpPayload(sink="s", json=2)]) == [STORED]


def test_a_mongo_that_is_not_the_primary_any_more_is_left(mongo_server: RunningMongo) -> None:
    """The driver's own error for it; with directConnection it would stay where it is."""
    from pymongo.collection import Collection
    from pymongo.errors import NotPrimaryError

    config = MongoSinkConfig(
        kind="mongo",
        uri=mongo_server.uri,
        database=f"d{uuid4().hex}",
        collection="results",
        timeout_seconds=5,
    )
    sink = MongoSink(config, context())
    real = Collection.bulk_write
    useless: list[Any] = []

    def bulk_write(self: Any, *args: Any, **more: Any) -> Any:
        client = self.database.client
        if not useless:
            useless.append(client)
        if client is useless[0]:
            raise NotPrimaryError("not primary", {"code": 10107})
        return real(self, *args, **more)

    with pytest.MonkeyPatch.context() as patched, running(sink) as lane:
        patched.setattr(Collection, "bulk_write", bulk_write)
        assert lane.outcomes([MongoPayload(sink="s", document={"n": 1})]) == [STORED]
