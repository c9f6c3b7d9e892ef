"""Retention on a real PostgreSQL: whole days go, while workers write."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import psycopg
import pytest
from django.conf import settings
from django.core.management import call_command
from django.db import OperationalError, connection, transaction
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries

from drakkar_site.accounts.models import AuditEntry
from integration.services.postgres import RunningPostgres
from recorder import audit_retention as aged
from recorder.models import Event, Run
from recorder.partitions import create_ahead, create_day, default_rows, existing_days, name_of
from recorder.retention import Day, Retention, choose, drop_detached, plan, prune
from recorder.writer import flush
from tests.contract.test_recorder_postgres import description, rows
from tests.support.factories import make_events, make_run
from tests.support.upkeep import a_turn, an_upkeep
from workers.control_plane.jobs import prune_audit_entries

pytestmark = pytest.mark.django_db(transaction=True)
TODAY = date(2026, 3, 14)


def days(*sizes: int) -> list[Day]:
    first = TODAY - timedelta(days=len(sizes) - 1)
    return [Day(day=first + timedelta(days=n), size_bytes=size) for n, size in enumerate(sizes)]


def gone(retention: Retention, *sizes: int, other_bytes: int = 0) -> list[int]:
    """How many days ago what goes was."""
    return [(TODAY - day.day).days for day in choose(days(*sizes), retention, TODAY, other_bytes)]


def test_a_day_is_made_while_autovacuum_holds_another(postgres: RunningPostgres) -> None:
    """It holds a large day for minutes; whoever waits a second for it never makes the next one."""
    now = timezone.now()
    create_ahead(now)
    beyond = now + timedelta(days=40)
    with psycopg.connect(postgres.dsn, dbname=connection.settings_dict["NAME"]) as other:
        held = name_of(now.astimezone(UTC).date())
        other.execute(f"LOCK TABLE {held} IN SHARE UPDATE EXCLUSIVE MODE".encode())
        assert beyond.date() in create_ahead(beyond)


def test_days_past_their_time_go() -> None:
    assert gone(Retention(days=2, max_bytes=None), 1, 1, 1, 1, 1) == [4, 3]
    assert gone(Retention(days=30, max_bytes=None), 1, 1, 1) == []


def test_the_oldest_go_past_the_bytes_and_today_never() -> None:
    assert gone(Retention(days=30, max_bytes=25), 10, 10, 10, 10) == [3, 2]
    assert gone(Retention(days=30, max_bytes=25), 10, 10, 10, other_bytes=10) == [2, 1]
    assert gone(Retention(days=30, max_bytes=5), 1, 1, 99) == [2, 1]
    assert gone(Retention(days=1, max_bytes=15), 10, 10, 10) == [2, 1]


@pytest.fixture
def now() -> Iterator[datetime]:
    """Tables for five days up to now, each with two events; cleaned afterwards."""
    moment = timezone.now()
    run = make_run()
    for ago in range(5):
        at = moment - timedelta(days=ago)
        create_day(at.astimezone(UTC).date())
        make_events(2, run=run.id, ts=at)
    yield moment
    with connection.cursor() as cursor:
        for day in existing_days():
            cursor.execute(f"DROP TABLE {name_of(day)}")


def ages(now: datetime) -> list[int]:
    stored = Event.objects.values_list("ts", flat=True)
    return sorted({(now.date() - ts.date()).days for ts in stored})


def test_pruning_drops_what_was_planned(now: datetime) -> None:
    retention = Retention(days=2, max_bytes=None)
    planned = plan(retention, now)
    assert [day.size_bytes > 0 for day in planned] == [True, True]
    assert ages(now) == [0, 1, 2, 3, 4]
    assert prune(retention, now) == planned
    assert ages(now) == [0, 1, 2]
    assert plan(retention, now) == []


def test_old_rows_without_a_day_go_too(now: datetime) -> None:
    make_events(3, run=make_run().id, ts=now - timedelta(days=40))
    make_events(1, run=make_run().id, ts=now + timedelta(days=40))
    prune(Retention(days=2, max_bytes=None), now)
    assert default_rows() == 1


def test_what_was_detached_but_not_dropped_is_dropped(now: datetime) -> None:
    day = name_of((now - timedelta(days=4)).astimezone(UTC).date())
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER TABLE recorder_event DETACH PARTITION {day}")
    assert drop_detached() == [day]
    assert drop_detached() == []


def in_thread(work: Any) -> threading.Thread:
    """Run on a connection of its own."""

    def main() -> None:
        try:
            work()
        finally:
            connection.close()

    thread = threading.Thread(target=main, daemon=True)
    thread.start()
    return thread


def test_a_reader_that_holds_a_day_puts_it_off_and_writers_go_on(now: datetime) -> None:
    """A lock is waited for one second only, so a flush is never held up for long."""
    is_held, may_end = threading.Event(), threading.Event()

    def read() -> None:
        with transaction.atomic():
            assert Event.objects.count() == 10
            is_held.set()
            assert may_end.wait(30)

    reader = in_thread(read)
    assert is_held.wait(30)
    with pytest.raises(OperationalError):
        prune(Retention(days=2, max_bytes=None), now)
    run = Run.objects.create(
        id=description().id, started_at=now, cluster="m", worker="w", host="h", pid=1,
        version="", isolation="", slots=1, config_hash="",
    )  # fmt: skip
    fresh = [{**row, "ts": now} for row in rows(5)]
    given = description()
    object.__setattr__(given, "id", run.id)
    assert flush(given, fresh, 0) == 5
    may_end.set()
    reader.join(30)
    assert len(prune(Retention(days=2, max_bytes=None), now)) == 2
    assert Event.objects.filter(run=run.id).count() == 5


def call(*args: str) -> Any:
    out = io.StringIO()
    call_command("prune_recorder", *args, "--json", stdout=out)
    return json.loads(out.getvalue())


def test_the_command_prunes_what_its_dry_run_names(
    now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = settings.DRAKKAR_STATE.site.model_copy(update={"history_retention_days": 3})
    monkeypatch.setattr(type(settings.DRAKKAR_STATE), "site", site)
    audited(now, 401, 401, 399)
    would = call("--dry-run")
    assert [day["reason"] for day in would["days"]] == ["history_retention_days"]
    assert would["audit_entries"] == 2
    assert (ages(now), AuditEntry.objects.count()) == ([0, 1, 2, 3, 4], 3)
    assert call() == would
    assert (ages(now), AuditEntry.objects.count()) == ([0, 1, 2, 3], 1)
    assert call() == {"days": [], "audit_entries": 0}


def audited(now: datetime, *ages_days: int) -> None:
    AuditEntry.objects.bulk_create(
        AuditEntry(at=now - timedelta(days=days), path=f"/{days}", status=200) for days in ages_days
    )


def test_the_controller_deletes_old_audit_entries_in_steps_oldest_first(
    monkeypatch: pytest.MonkeyPatch, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    now = timezone.now()
    audited(now, 3, 401, 405, 404, 402, 403)
    monkeypatch.setattr(aged, "STEP_ROWS", 2)
    with django_assert_num_queries(3):  # BEGIN, DELETE, COMMIT
        assert aged.prune_audit(400, now, steps=1) == 2
    left = AuditEntry.objects.order_by("at").values_list("path", flat=True)
    assert list(left) == ["/403", "/402", "/401", "/3"]
    prune_audit_entries(a_turn(upkeep=an_upkeep(audit_days=400)))
    assert list(left.all()) == ["/3"]
    assert aged.prune_audit(400, now) == 0
