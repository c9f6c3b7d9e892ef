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
from django.db import OperationalError, connection, connections, transaction
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries

from drakkar_site.accounts.models import AuditEntry
from integration.services.postgres import RunningPostgres
from recorder import audit_retention as aged
from recorder.databases import history_alias
from recorder.models import Event, Run
from recorder.partitions import (
    Span,
    comes_in_hours,
    create_ahead,
    create_span,
    default_rows,
    existing_spans,
    missing_spans,
)
from recorder.retention import Part, Retention, choose, drop_detached, plan, prune
from recorder.writer import flush
from tests.contract.test_recorder_postgres import description, rows
from tests.support.factories import make_events, make_run
from tests.support.upkeep import a_turn, an_upkeep
from workers.control_plane.jobs import prune_audit_entries

pytestmark = pytest.mark.django_db(transaction=True)
TODAY = date(2026, 3, 14)
NOON = datetime(2026, 3, 14, 12, 30, tzinfo=UTC)


def days(*sizes: int) -> list[Part]:
    first = TODAY - timedelta(days=len(sizes) - 1)
    spans = (Span.of_day(first + timedelta(days=n)) for n in range(len(sizes)))
    return [Part(span=span, size_bytes=size) for span, size in zip(spans, sizes, strict=True)]


def gone(retention: Retention, *sizes: int, other_bytes: int = 0) -> list[int]:
    """How many days ago what goes was."""
    found = choose(days(*sizes), retention, NOON, other_bytes)
    return [(TODAY - part.span.begin.date()).days for part in found]


def test_a_day_is_made_while_autovacuum_holds_another(postgres: RunningPostgres) -> None:
    """It holds a large day for minutes; whoever waits a second for it never makes the next one."""
    now = timezone.now()
    create_ahead(now)
    beyond = now + timedelta(days=40)
    with psycopg.connect(postgres.dsn, dbname=connection.settings_dict["NAME"]) as other:
        held = Span.of_day(now.astimezone(UTC).date()).table
        other.execute(f"LOCK TABLE {held} IN SHARE UPDATE EXCLUSIVE MODE".encode())
        assert Span.of_day(beyond.astimezone(UTC).date()) in create_ahead(beyond)


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
        create_span(Span.of_day(at.astimezone(UTC).date()))
        make_events(2, run=run.id, ts=at)
    yield moment
    with connection.cursor() as cursor:
        for span in existing_spans():
            cursor.execute(f"DROP TABLE {span.table}")


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
    day = Span.of_day((now - timedelta(days=4)).astimezone(UTC).date()).table
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
    assert call() == {"days": [], "rollups": 0, "audit_entries": 0}


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


def whole(*ago: int) -> list[Span]:
    return [Span.of_day(TODAY - timedelta(days=n)) for n in ago]


def missing(existing: list[Span], *strays: date, hourly: bool = False) -> list[str]:
    found = missing_spans(existing, strays, NOON, days=3, is_hourly=hourly)
    return [str(span) for span in found]


def test_days_are_made_ahead_and_hours_for_the_next_days_where_they_come_in_hours() -> None:
    coming = ["2026-03-14", "2026-03-15", "2026-03-16", "2026-03-17"]
    assert missing([]) == coming
    assert missing(whole(0, -1)) == coming[2:]
    made = missing(whole(0), hourly=True)
    assert made == [
        *(f"{day} {hour:02}:00" for day in coming[1:3] for hour in range(24)), coming[3]
    ]  # fmt: skip
    # Without today's table its hours to come are made; what is over only for rows without a day.
    assert missing([], hourly=True)[0] == "2026-03-14 12:00"
    assert missing(whole(0, -1, -2, -3), TODAY - timedelta(days=5)) == ["2026-03-09"]


def test_a_day_begun_in_hours_goes_on_in_hours() -> None:
    """Also when the bound was lifted meanwhile."""
    hours = Span.of_day(TODAY).hours()[:14]
    assert missing([*hours, *whole(-1, -2, -3)])[0] == "2026-03-14 14:00"
    assert len(missing([*hours, *whole(-1, -2, -3)])) == 10
    gone = Span.of_day(TODAY).hours()[5:]
    assert missing([*gone, *whole(-1, -2, -3)]) == []
    assert missing([*gone, *whole(-1, -2, -3)], TODAY) == [
        f"2026-03-14 {hour:02}:00" for hour in range(5)
    ]


def test_closed_hours_of_today_go_past_the_bytes_and_this_hour_never() -> None:
    parts = [Part(span=span, size_bytes=10) for span in Span.of_day(TODAY).hours()]
    gone = [part.span for part in choose(parts, Retention(days=7, max_bytes=200), NOON)]
    assert [str(span) for span in gone] == [f"2026-03-14 {hour:02}:00" for hour in range(4)]
    over = [part.span for part in choose(parts, Retention(days=7, max_bytes=1), NOON)]
    assert [str(span) for span in over] == [f"2026-03-14 {hour:02}:00" for hour in range(12)]


@pytest.fixture
def no_spans() -> Iterator[None]:
    yield
    with connections[history_alias()].cursor() as cursor:
        for span in existing_spans():
            cursor.execute(f"DROP TABLE {span.table}")


def test_a_large_history_comes_in_hours_whose_oldest_go_and_later_in_days_again(
    no_spans: None,
) -> None:
    run, now = make_run(), timezone.now().astimezone(UTC)
    today = Span.of_day(now.date())
    noon = today.begin + timedelta(days=1, hours=12, minutes=30)
    create_ahead(now)
    make_events(4, run=run.id, ts=now)
    assert not comes_in_hours(now, None)
    assert not comes_in_hours(now, 2**40)
    assert comes_in_hours(now, 1)
    late = make_events(1, run=run.id, ts=today.begin + timedelta(days=2, hours=3))
    made = create_ahead(now, max_bytes=1)
    assert made == []  # tomorrow was cut in place; the day after holds a row, and stays whole
    spans = existing_spans()
    assert [span for span in spans if Span.of_day(noon.date()).meets(span)] == Span.of_day(
        noon.date()
    ).hours()
    assert today in spans
    assert Span.of_day(late[0].ts.date()) in spans
    for hour in (1, 2, 12):
        make_events(2, run=run.id, ts=today.begin + timedelta(days=1, hours=hour, minutes=1))
    assert default_rows() == 0
    weight = sum(part.size_bytes for part in plan(Retention(days=7, max_bytes=1), noon))
    gone = prune(Retention(days=7, max_bytes=1), noon)
    assert sum(part.size_bytes for part in gone) == weight
    assert [str(part.span) for part in gone][-1] == f"{noon:%Y-%m-%d} 11:00"
    left = Event.objects.filter(run=run.id).order_by("ts").values_list("ts", flat=True)
    assert [(ts.day, ts.hour) for ts in left] == [
        (noon.day, 12), (noon.day, 12), (late[0].ts.day, 3)
    ]  # fmt: skip
    assert create_ahead(noon) != []
    assert all(span.is_day for span in existing_spans() if span.begin > noon + timedelta(days=1))
