"""The migration to fewer indexes: on a table of several days with rows in it, and back."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from uuid import uuid4

import pytest
from django.core.management import call_command
from django.db import connection

from recorder import models
from recorder.partitions import create_ahead, existing_spans

pytestmark = pytest.mark.django_db(transaction=True)
BEFORE, AFTER = "0005_run_process", "0006_fewer_indexes"
INDEXES = """
SELECT parent.relname, count(*), bool_and(indisvalid) FROM pg_class parent
JOIN pg_inherits ON inhparent = parent.oid JOIN pg_index ON indexrelid = inhrelid
WHERE parent.relkind = 'I' AND parent.relname ~ '^event_by|event_pkey$'
GROUP BY 1
"""


@pytest.fixture
def days() -> Iterator[int]:
    """The number of partitions of a table that has days, and the default one."""
    create_ahead(datetime.now(UTC))
    yield len(existing_spans()) + 1
    call_command("migrate", "recorder", verbosity=0)  # All of them: other tests follow.


def migrate(name: str) -> None:
    call_command("migrate", "recorder", name, verbosity=0)


def indexes() -> dict[str, int]:
    """How many partitions have each index; all of them whole."""
    with connection.cursor() as cursor:
        cursor.execute(INDEXES)
        found = cursor.fetchall()
    assert all(is_valid for *_, is_valid in found)
    return {name: count for name, count, _ in found}


def store(seq: int, at: datetime) -> None:
    models.Event.objects.copy_in(
        [{"ts": at, "run": uuid4(), "seq": seq, "kind": "parked", "topic": "t", "partition": 1}]
    )


def test_every_day_loses_and_gets_its_indexes_and_keeps_its_rows(days: int) -> None:
    kept = ("event_by_time", "event_by_offset", "event_by_task", "event_by_run")
    now = indexes()
    assert now == dict.fromkeys((*kept, "event_by_kind_unfolded", "event_by_id"), days)
    migrate(BEFORE)
    assert indexes() == dict.fromkeys((*kept, "event_by_kind", "recorder_event_pkey"), days)
    store(1, datetime.now(UTC))
    store(2, datetime(2020, 1, 1, tzinfo=UTC))
    migrate(AFTER)
    assert indexes() == now
    assert [event.seq for event in models.Event.objects.order_by("seq")] == [1, 2]
    create_ahead(datetime(2031, 1, 1, tzinfo=UTC))
    grown = indexes()
    assert {*grown.values()} == {len(existing_spans()) + 1}
    assert grown.keys() == now.keys()


def test_an_interrupted_migration_is_taken_up_again(days: int) -> None:
    now = indexes()
    migrate(BEFORE)
    with connection.cursor() as cursor:
        cursor.execute("CREATE INDEX event_by_id ON ONLY recorder_event USING brin (id)")
        cursor.execute("CREATE INDEX event_by_id_default ON recorder_event_default USING brin (id)")
    migrate(AFTER)
    assert indexes() == now


def test_a_rare_kind_is_found_by_its_index(days: int) -> None:
    rows = models.Event.objects.filter(kind__in=("parked", "stalled"), partition=1)
    with connection.cursor() as cursor:
        cursor.execute("SET enable_seqscan = off")
        cursor.execute("SET enable_bitmapscan = off")
    plan = rows.order_by("-ts", "-id").explain()
    assert "kind_partition_ts_id_idx" in plan or "event_by_kind_unfolded" in plan
