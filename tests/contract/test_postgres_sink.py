"""What only the postgres sink does: column types, narrowing of rows, the ledger."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb
from pydantic import ValidationError

from domain.payload import PostgresPayload, Upsert
from integration.services import postgres
from sinks.backends.postgres import PostgresSink, PostgresSinkConfig
from sinks.base import ConfigError, PermanentError, TransientError
from sinks.lane import Lane
from sinks.lane_queue import LanePolicy, OutcomeKind
from sinks.registry import SinkContext
from tests.contract.sinks.subject import delivery, new_ids
from tests.support.lanes import Collector, deliver, entries_of

SCHEMA = """
CREATE SCHEMA IF NOT EXISTS "Odd";
DROP TABLE IF EXISTS "Odd".shapes;
CREATE DOMAIN "Odd".tags AS text[];
CREATE TABLE "Odd".shapes (
    id text PRIMARY KEY,
    numbers int[],
    words text[],
    grid int[],
    tags "Odd".tags,
    documents jsonb[],
    data jsonb,
    plain json
)
"""
TABLE = "Odd.shapes"


@pytest.fixture
def connection(postgres_server: postgres.RunningPostgres) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(postgres_server.dsn, autocommit=True) as connection:
        connection.execute(SCHEMA)
        yield connection
        connection.execute('DROP SCHEMA "Odd" CASCADE')


@pytest.fixture
def sink(
    postgres_server: postgres.RunningPostgres, connection: psycopg.Connection[Any]
) -> Iterator[PostgresSink]:
    config = PostgresSinkConfig(kind="postgres", dsn=postgres_server.dsn, table=TABLE)
    context = SinkContext(cluster="c", name="s", source_brokers="", source_client={})
    sink = PostgresSink(config, context)
    sink.open()
    yield sink
    sink.close()


def store(sink: PostgresSink, *rows: dict[str, Any]) -> None:
    payloads = [PostgresPayload(sink="s", row=row, on_conflict=Upsert(keys=["id"])) for row in rows]
    deliver(sink, [delivery(one, i) for one, i in zip(payloads, new_ids(len(rows)), strict=True)])


def stored(connection: psycopg.Connection[Any], column: str) -> list[Any]:
    found = connection.execute(f'SELECT {column} FROM "Odd".shapes ORDER BY id')
    return [row[0] for row in found]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("numbers", [1, 2, None]),
        ("numbers", []),
        ("words", ["a", 'b"{,}', ""]),
        ("grid", [[1, 2], [3, 4]]),
        ("tags", ["x"]),
        ("documents", [{"a": 1}, {"b": [2]}]),
        ("data", [1, "two", {"three": [3]}]),
        ("data", []),
        ("data", {"a": [1]}),
        ("plain", [1, 2]),
        ("plain", {"a": 1}),
    ],
)
def test_a_list_fits_the_type_of_its_column(
    sink: PostgresSink, connection: psycopg.Connection[Any], column: str, value: object
) -> None:
    store(sink, {"id": "1", column: value}, {"id": "2", column: None})
    assert stored(connection, column) == [value, None]


def test_what_the_handler_wrapped_itself_stays_as_it_is(
    sink: PostgresSink, connection: psycopg.Connection[Any]
) -> None:
    store(sink, {"id": "1", "data": Jsonb("text")})
    assert stored(connection, "data") == ["text"]


def test_a_batch_of_slow_statements_has_one_timeout(
    postgres_server: postgres.RunningPostgres, connection: psycopg.Connection[Any]
) -> None:
    connection.execute("""
        CREATE FUNCTION "Odd".linger() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN PERFORM pg_sleep(0.6); RETURN NEW; END';
        CREATE TRIGGER linger BEFORE INSERT ON "Odd".shapes
        FOR EACH ROW EXECUTE FUNCTION "Odd".linger()
    """)
    config = PostgresSinkConfig(
        kind="postgres", dsn=postgres_server.dsn, table=TABLE, timeout_seconds=1
    )
    context = SinkContext(cluster="c", name="s", source_brokers="", source_client={})
    slow = PostgresSink(config, context)
    slow.open()
    rows = 40
    began = time.monotonic()
    try:
        with pytest.raises(TransientError):
            store(slow, *({"id": str(number)} for number in range(rows)))
        took_seconds = time.monotonic() - began
    finally:
        slow.close()
        connection.execute(  # else the server goes on with what it was sent
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name = 'drakkar-sink'"
        )
    assert took_seconds < 0.6 * rows / 2
    assert stored(connection, "id") == []


def test_a_column_that_changed_its_type_is_looked_at_again(
    sink: PostgresSink, connection: psycopg.Connection[Any]
) -> None:
    store(sink, {"id": "1", "numbers": [1]})
    connection.execute('ALTER TABLE "Odd".shapes DROP numbers, ADD numbers jsonb')
    store(sink, {"id": "2", "numbers": [2]})
    assert stored(connection, "numbers") == [None, [2]]


def test_rows_with_an_unknown_column_are_refused_alone(
    sink: PostgresSink, connection: psycopg.Connection[Any]
) -> None:
    rows: list[dict[str, Any]] = [{"id": f"{n:02}", "data": {"n": n}} for n in range(10)]
    rows[4] = {"id": "04", "nowhere": 1}
    payloads = [PostgresPayload(sink="s", row=row) for row in rows]
    deliveries = [delivery(one, i) for one, i in zip(payloads, new_ids(10), strict=True)]

    async def scenario() -> tuple[list[OutcomeKind], str]:
        lane = Lane("s", "postgres", lambda: sink, LanePolicy())
        lane.start()
        owner = Collector(10)
        await lane.submit(entries_of(owner, deliveries))
        kinds = await owner.wait()
        assert await lane.close(10.0)
        return kinds, owner.outcomes[4].reason

    kinds, reason = asyncio.run(scenario())
    assert kinds[4] is OutcomeKind.REFUSED
    assert kinds.count(OutcomeKind.DELIVERED) == 9
    assert "nowhere" in reason
    assert stored(connection, "id") == [f"{n:02}" for n in range(10) if n != 4]


def test_a_name_that_the_server_would_cut_off_reaches_no_other_column(
    sink: PostgresSink, connection: psycopg.Connection[Any]
) -> None:
    connection.execute(f'ALTER TABLE "Odd".shapes ADD COLUMN "{"c" * 63}" text')
    long = PostgresPayload(sink="s", row={"id": "a", "c" * 64: "x"})
    other = PostgresPayload(sink="s", row={"id": "a"}, table=f"Odd.{'t' * 64}")
    for payload, field in ((long, "row"), (other, "table")):
        with pytest.raises(PermanentError, match=rf"{field}: expected names of at most 63 bytes"):
            sink.encode(delivery(payload, "d"))
    with pytest.raises(ValidationError, match="at most 63 bytes"):
        PostgresSinkConfig(kind="postgres", dsn="", table="t" * 64)


@pytest.mark.parametrize("column", ["share %", "%s", "%(a)s", "100%%"])
def test_a_percent_sign_is_a_letter_of_a_name(
    sink: PostgresSink, connection: psycopg.Connection[Any], column: str
) -> None:
    connection.execute(f'ALTER TABLE "Odd".shapes ADD COLUMN "{column}" text')
    store(sink, {"id": "a", column: "x"}, {"id": "b", column: "y"})
    assert stored(connection, f'"{column}"') == ["x", "y"]


def test_a_value_for_a_column_that_the_server_makes_is_the_rows_fault(
    sink: PostgresSink, connection: psycopg.Connection[Any]
) -> None:
    made = "ADD COLUMN made int GENERATED ALWAYS AS IDENTITY"
    connection.execute(f'ALTER TABLE "Odd".shapes {made}')
    with pytest.raises(PermanentError, match="428C9"):
        store(sink, {"id": "a", "made": 1})


def test_what_is_no_table_is_an_operators_to_mend(
    sink: PostgresSink, connection: psycopg.Connection[Any]
) -> None:
    connection.execute('CREATE VIEW "Odd".seen AS SELECT 1 AS id')
    with pytest.raises(ConfigError, match="55000 cannot insert into view"):
        deliver(sink, [delivery(PostgresPayload(sink="s", row={"id": 1}, table="Odd.seen"), "d")])
