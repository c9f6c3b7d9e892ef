"""The ledger of delivery ids on the embedded server: old ones, two releases at once, pruning."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from domain.payload import PostgresPayload
from integration.services import postgres
from sinks import delivery_ledger
from sinks.backends.postgres import PostgresSink, PostgresSinkConfig
from sinks.base import ConfigError
from sinks.delivery_ledger import LedgerUpkeep, forget, index_by_age, make_ledger, remember
from sinks.registry import SinkContext
from tests.contract.sinks.subject import delivery

OLD = """
CREATE TABLE drakkar_deliveries (
    delivery_id text PRIMARY KEY, at timestamptz NOT NULL DEFAULT now()
)
"""
BY_THE_OLD_RELEASE = (
    "INSERT INTO drakkar_deliveries (delivery_id) SELECT DISTINCT unnest(%s::text[]) "
    "ON CONFLICT DO NOTHING RETURNING delivery_id"
)
Connection = psycopg.Connection[Any]


@pytest.fixture
def dsn(postgres_server: postgres.RunningPostgres) -> str:
    with psycopg.connect(postgres_server.dsn, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS drakkar_deliveries")
    return postgres_server.dsn


@pytest.fixture
def connection(dsn: str) -> Iterator[Connection]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield connection


def entries(connection: Connection) -> dict[str, list[str]]:
    return dict(connection.execute("SELECT delivery_id, scopes FROM drakkar_deliveries"))


def age(connection: Connection, days: float) -> None:
    connection.execute(
        "UPDATE drakkar_deliveries SET at = now() - make_interval(secs => %s)", [days * 86_400]
    )


def old_release(connection: Connection, *ids: str) -> list[str]:
    return sorted(row[0] for row in connection.execute(BY_THE_OLD_RELEASE, [list(ids)]))


def test_an_id_is_new_once_in_each_scope(connection: Connection) -> None:
    make_ledger(connection)
    asked = [("k", "rows/a"), ("k", "rows/b"), ("k", "other/a"), ("k", "rows/a"), ("x", "rows/a")]
    assert remember(connection, asked) == [0, 1, 2, 4]
    assert remember(connection, asked) == []
    assert entries(connection) == {"k": ["other/a", "rows/a", "rows/b"], "x": ["rows/a"]}


def test_what_an_old_ledger_holds_stands(connection: Connection) -> None:
    connection.execute(OLD)
    assert old_release(connection, "k") == ["k"]
    make_ledger(connection)
    make_ledger(connection)
    assert remember(connection, [("k", "rows/a"), ("x", "rows/a")]) == [1]


def test_workers_of_both_releases_share_a_ledger(connection: Connection) -> None:
    connection.execute(OLD)
    make_ledger(connection)
    connection.execute(OLD.replace("TABLE", "TABLE IF NOT EXISTS"))  # the old one starts anew
    remember(connection, [("new", "rows/a")])
    assert old_release(connection, "new", "old") == ["old"]
    assert remember(connection, [("old", "rows/a"), ("new", "rows/a")]) == []
    assert remember(connection, [("new", "rows/b")]) == [0]


@pytest.mark.parametrize("is_old", [True, False])
def test_many_workers_may_start_at_once(connection: Connection, dsn: str, is_old: bool) -> None:
    if is_old:
        connection.execute(OLD)
    together = threading.Barrier(8)

    def start(_: int) -> None:
        with psycopg.connect(dsn, autocommit=True) as own:
            together.wait(20)
            make_ledger(own)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(start, range(8)))
    assert remember(connection, [("k", "rows/a")]) == [0]


def test_a_migration_that_cannot_have_the_lock_holds_nobody_up(
    connection: Connection, dsn: str
) -> None:
    connection.execute(OLD)
    with psycopg.connect(dsn) as other:
        other.execute("SELECT FROM drakkar_deliveries")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            make_ledger(connection)
    make_ledger(connection)
    assert remember(connection, [("k", "rows/a")]) == [0]


def test_two_transactions_with_the_same_ids_store_them_once(
    connection: Connection, dsn: str
) -> None:
    make_ledger(connection)
    asked = [(f"id-{n}", f"rows/{n % 3}") for n in range(200)]

    def deliver(is_backwards: bool) -> int:
        with psycopg.connect(dsn) as own:
            return len(remember(own, asked[::-1] if is_backwards else asked))

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(deliver, [False, True, False, True])) == 200


def test_only_what_is_old_is_forgotten_in_steps(connection: Connection) -> None:
    make_ledger(connection)
    remember(connection, [(f"old-{n}", "rows/a") for n in range(25)])
    age(connection, 7.01)
    remember(connection, [("young", "rows/a")])
    assert [forget(connection, 7, limit=10) for _ in range(4)] == [10, 10, 5, 0]
    assert entries(connection) == {"young": ["rows/a"]}


def test_nobody_waits_for_a_delivery_to_forget(connection: Connection, dsn: str) -> None:
    make_ledger(connection)
    remember(connection, [("held", "rows/a"), ("free", "rows/a")])
    age(connection, 8)
    with psycopg.connect(dsn) as other:
        other.execute("SELECT FROM drakkar_deliveries WHERE delivery_id = 'held' FOR UPDATE")
        assert forget(connection, 7) == 1
        assert forget(other, 7) == 1
    assert entries(connection) == {}


def test_an_old_ledger_gets_its_index_and_one_cut_short_is_built_again(
    connection: Connection,
) -> None:
    connection.execute(OLD)
    make_ledger(connection)
    for _ in range(2):
        index_by_age(connection)
        (found,) = connection.execute(delivery_ledger._INDEX_IS_VALID).fetchall()
        assert found == (True,)
        connection.execute(
            "UPDATE pg_index SET indisvalid = false "
            "WHERE indexrelid = 'drakkar_deliveries_at'::regclass"
        )


def test_the_longest_retention_of_a_process_counts(connection: Connection, dsn: str) -> None:
    make_ledger(connection)
    remember(connection, [(f"id-{n}", "rows/a") for n in range(3)])
    age(connection, 9)
    upkeep = LedgerUpkeep(lambda: psycopg.connect(dsn, autocommit=True))
    upkeep.join(7)
    upkeep.join(10)
    assert (upkeep.days, upkeep.run_once()) == (10, 0)
    assert not upkeep.leave(10)
    assert (upkeep.days, upkeep.run_once()) == (7, 3)
    assert upkeep.leave(7)


def test_a_role_that_may_not_delete_is_told_with_the_cure(
    connection: Connection, dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    make_ledger(connection)
    remember(connection, [("old", "rows/a")])
    age(connection, 8)
    connection.execute("DROP ROLE IF EXISTS writer")
    connection.execute("CREATE ROLE writer")
    connection.execute("GRANT SELECT, INSERT, UPDATE ON drakkar_deliveries TO writer")

    def connect() -> Connection:
        own = psycopg.connect(dsn, autocommit=True)
        own.execute("SET ROLE writer")
        return own

    upkeep = LedgerUpkeep(connect)
    upkeep.join(7)
    with caplog.at_level(logging.WARNING, "drakkar.sinks"):
        assert upkeep.run_once() == 0
    upkeep.leave(7)
    connection.execute("DROP OWNED BY writer")
    connection.execute("DROP ROLE writer")
    assert "permission denied for table drakkar_deliveries" in caplog.text
    assert "needs DELETE" in caplog.text


def test_a_role_that_does_not_own_an_old_ledger_is_told_what_its_owner_may_run(
    connection: Connection, dsn: str
) -> None:
    connection.execute(OLD)
    connection.execute("DROP ROLE IF EXISTS guest")
    connection.execute("CREATE ROLE guest LOGIN")
    connection.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON drakkar_deliveries TO guest")
    as_guest = make_conninfo(dsn, user="guest")
    table = "drakkar_deliveries"
    config = PostgresSinkConfig(kind="postgres", dsn=as_guest, table=table, dedup=True)
    context = SinkContext(cluster="c", name="s", source_brokers="", source_client={})
    sink = PostgresSink(config, context)
    cure = r"must be owner.*its owner may run: ALTER TABLE"
    try:
        with pytest.raises(ConfigError, match=cure) as told:
            sink.open()
        connection.execute(str(told.value).partition("may run: ")[2])
        sink.open()
    finally:
        sink.close()
        connection.execute("DROP OWNED BY guest")
        connection.execute("DROP ROLE guest")


def test_a_ledger_that_an_old_release_made_anew_dead_letters_nothing(
    connection: Connection, dsn: str
) -> None:
    config = PostgresSinkConfig(kind="postgres", dsn=dsn, table="drakkar_deliveries", dedup=True)
    context = SinkContext(cluster="c", name="s", source_brokers="", source_client={})
    sink = PostgresSink(config, context)
    row = PostgresPayload(sink="s", row={"delivery_id": "x"}, on_conflict="nothing")
    try:
        sink.open()
        connection.execute("DROP TABLE drakkar_deliveries")
        connection.execute(OLD)
        with pytest.raises(ConfigError, match="the ledger is gone or was made anew"):
            sink.send([sink.encode(delivery(row, "id"))])
        sink.send([sink.encode(delivery(row, "id"))])
        assert sorted(entries(connection)) == ["id", "x"]
    finally:
        sink.close()
