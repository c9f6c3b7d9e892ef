"""Day partitions of the events table: made ahead, emptied out of the default one.

A row whose day has no partition falls into the default one. While it lies there that day cannot get
a partition: Postgres would have to look at every row, with writers shut out. So the default table
is put aside as a whole, which takes a moment, an empty one takes its place, and the rows move from
there into their days a few thousand at a time, however many there are.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta

from django.db import transaction
from psycopg import sql

from recorder.databases import history, history_alias

DAYS_AHEAD = 14
"""So long may the controller be away before rows fall into the default partition."""
LOCK_TIMEOUT_MS = 1000
PREFIX = "recorder_event_"
DEFAULT = f"{PREFIX}default"
MOVING = f"{PREFIX}moving"
"""Default partition of before, while its rows move."""
MOVE_PAGES = 250
"""Pages of 8 KiB that one transaction moves: 5,000 to 10,000 rows."""
MOVE_SECONDS = 120.0
"""Seconds that one call moves rows; the next goes on."""
MAX_STRAY_DAYS = 100
MAX_STRAY_AGE_DAYS = 400
"""Rows of an older day stay in the default partition, for the retention to delete."""


def name_of(day: date) -> str:
    """Return the table of a day."""
    return f"{PREFIX}{day:%Y%m%d}"


def existing_days() -> set[date]:
    """Days that have a partition."""
    with history().cursor() as cursor:
        cursor.execute(
            "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid "
            "WHERE i.inhparent = 'recorder_event'::regclass"
        )
        names = [row[0].removeprefix(PREFIX) for row in cursor.fetchall()]
    return {datetime.strptime(name, "%Y%m%d").date() for name in names if name.isdigit()}  # noqa: DTZ007


def create_ahead(now: datetime, days: int = DAYS_AHEAD) -> list[date]:
    """Make the partitions of today, the days ahead, and past days whose rows lie in the default
    one, whose rows move; returns the days made.

    Idempotent; rows that could not move in time move with the next call. Raises OperationalError
    when a lock cannot be had within a second: try again later.
    """
    move_rows()
    today = now.astimezone(UTC).date()
    wanted = {today + timedelta(days=ahead) for ahead in range(-1, days + 1)}
    strays = days_in_default(today - timedelta(days=MAX_STRAY_AGE_DAYS))
    wanted |= {day for day in strays if day <= today + timedelta(days=days)}
    missing = sorted(wanted - existing_days())
    if missing and strays:
        _put_default_aside(missing)
        move_rows()
        return missing
    for day in missing:
        create_day(day)
    return missing


def days_in_default(first: date) -> list[date]:
    """Return the days of the rows in the default partition, from ``first`` on, a hundred at the
    most."""
    found: list[date] = []
    after = _begin(first)
    with history().cursor() as cursor:
        while len(found) < MAX_STRAY_DAYS:
            cursor.execute(f"SELECT min(ts) FROM {DEFAULT} WHERE ts >= %s", [after])  # noqa: S608
            (earliest,) = cursor.fetchone()
            if earliest is None:
                break
            found.append(earliest.astimezone(UTC).date())
            after = _begin(found[-1]) + timedelta(days=1)
    return found


def create_day(day: date) -> None:
    """Attach a day's empty partition, unless it is there."""
    begin, end = day.isoformat(), (day + timedelta(days=1)).isoformat()
    with transaction.atomic(using=history_alias()), history().cursor() as cursor:
        cursor.execute(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}")
        # Serialises makers; not the days, which autovacuum may hold for minutes.
        cursor.execute("LOCK TABLE ONLY recorder_event IN SHARE UPDATE EXCLUSIVE MODE")
        if day in existing_days():
            return
        cursor.execute(f"CREATE TABLE {name_of(day)} (LIKE recorder_event INCLUDING DEFAULTS)")
        cursor.execute(
            f"ALTER TABLE recorder_event ATTACH PARTITION {name_of(day)} "
            f"FOR VALUES FROM ('{begin} 00:00:00+00') TO ('{end} 00:00:00+00')"
        )


def _put_default_aside(days: Iterable[date]) -> None:
    """Give the events an empty default partition, and these days theirs, in one moment."""
    with transaction.atomic(using=history_alias()), history().cursor() as cursor:
        cursor.execute(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}")
        # Writers wait here, before they look for a row's partition, and find the new ones.
        cursor.execute("LOCK TABLE ONLY recorder_event IN ACCESS EXCLUSIVE MODE")
        if not _is_there(MOVING):
            cursor.execute(f"ALTER TABLE recorder_event DETACH PARTITION {DEFAULT}")
            cursor.execute(f"ALTER TABLE {DEFAULT} RENAME TO {MOVING}")
            # It is emptied and dropped; autovacuum would only be in the way of the last step.
            cursor.execute(f"ALTER TABLE {MOVING} SET (autovacuum_enabled = false)")
            cursor.execute(f"CREATE TABLE {DEFAULT} PARTITION OF recorder_event DEFAULT")
        for day in days:
            create_day(day)


def move_rows(seconds: float = MOVE_SECONDS) -> int:
    """Move rows that were put aside into their days, for so long at the most; returns how many."""
    if not _is_there(MOVING):
        return 0
    until, moved = time.monotonic() + seconds, 0
    for first in range(0, _pages(MOVING), MOVE_PAGES):
        if time.monotonic() > until:
            return moved
        moved += _move_pages(first)
    _drop_moving()
    return moved


def _drop_moving() -> None:
    """Drop the table put aside, once nothing is left in it."""
    with transaction.atomic(using=history_alias()), history().cursor() as cursor:
        cursor.execute(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}")
        cursor.execute(f"LOCK TABLE {MOVING} IN ACCESS EXCLUSIVE MODE")
        cursor.execute(f"SELECT EXISTS (SELECT 1 FROM {MOVING})")  # noqa: S608
        if not cursor.fetchone()[0]:
            cursor.execute(f"DROP TABLE {MOVING}")


def _move_pages(first: int) -> int:
    """Move what lies in some pages, in one short transaction. Nobody writes to this table."""
    columns = sql.SQL(", ").join(map(sql.Identifier, _columns()))
    statement = sql.SQL(
        "WITH moved AS (DELETE FROM {moving} WHERE ctid >= {begin}::tid AND ctid < {end}::tid "
        "RETURNING {columns}) INSERT INTO recorder_event ({columns}) SELECT {columns} FROM moved"
    ).format(
        moving=sql.Identifier(MOVING),
        columns=columns,
        begin=sql.Literal(f"({first},0)"),
        end=sql.Literal(f"({first + MOVE_PAGES},0)"),
    )
    with transaction.atomic(using=history_alias()), history().cursor() as cursor:
        cursor.execute(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}")
        cursor.execute(statement)
        return int(cursor.rowcount)


def default_rows() -> int:
    """Rows in the default partition, or on their way out of it; more than 0 is an alarm."""
    found = 0
    for table in (DEFAULT, MOVING):
        if _is_there(table):
            with history().cursor() as cursor:
                cursor.execute(f"SELECT count(*) FROM (SELECT 1 FROM {table} LIMIT 100000) t")  # noqa: S608
                found += int(cursor.fetchone()[0])
    return found


def _begin(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def _is_there(table: str) -> bool:
    with history().cursor() as cursor:
        cursor.execute("SELECT to_regclass(%s) IS NOT NULL", [table])
        return bool(cursor.fetchone()[0])


def _pages(table: str) -> int:
    with history().cursor() as cursor:
        cursor.execute(
            "SELECT pg_relation_size(to_regclass(%s)) / current_setting('block_size')::int", [table]
        )
        return int(cursor.fetchone()[0])


def _columns() -> list[str]:
    with history().cursor() as cursor:
        cursor.execute(
            "SELECT attname FROM pg_attribute WHERE attrelid = 'recorder_event'::regclass "
            "AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
        )
        return [row[0] for row in cursor.fetchall()]
