"""Day partitions of the events table: made ahead, emptied out of the default one."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

from django.db import connection, transaction

DAYS_AHEAD = 7
LOCK_TIMEOUT_MS = 1000
PREFIX = "recorder_event_"


def name_of(day: date) -> str:
    """The table of a day."""
    return f"{PREFIX}{day:%Y%m%d}"


def existing_days() -> set[date]:
    """Days that have a partition."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid "
            "WHERE i.inhparent = 'recorder_event'::regclass"
        )
        names = [row[0].removeprefix(PREFIX) for row in cursor.fetchall()]
    return {datetime.strptime(name, "%Y%m%d").date() for name in names if name.isdigit()}  # noqa: DTZ007


def create_ahead(now: datetime, days: int = DAYS_AHEAD) -> list[date]:
    """Make the partitions of today and the days ahead; returns those made.

    Idempotent. Raises OperationalError when a lock cannot be had within a second: try again later.
    """
    known = existing_days()
    today = now.astimezone(UTC).date()
    wanted = [today + timedelta(days=ahead) for ahead in range(-1, days + 1)]
    missing = [day for day in wanted if day not in known]
    for day in missing:
        _create(day)
    return missing


def _create(day: date) -> None:
    """Move a day's rows out of the default partition and attach its own, in one transaction."""
    name, begin, end = name_of(day), day.isoformat(), (day + timedelta(days=1)).isoformat()
    bounds = f"'{begin} 00:00:00+00'", f"'{end} 00:00:00+00'"
    in_day = f"ts >= {bounds[0]} AND ts < {bounds[1]}"
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}")
        # Serialises makers, and keeps writers out of the default partition for this moment.
        cursor.execute("LOCK TABLE recorder_event_default IN ACCESS EXCLUSIVE MODE")
        cursor.execute(f"CREATE TABLE {name} (LIKE recorder_event INCLUDING DEFAULTS)")
        cursor.execute(
            f"WITH moved AS (DELETE FROM recorder_event_default WHERE {in_day} RETURNING *) "  # noqa: S608 - dates only
            f"INSERT INTO {name} SELECT * FROM moved"
        )
        cursor.execute(
            f"ALTER TABLE recorder_event ATTACH PARTITION {name} "
            f"FOR VALUES FROM ({bounds[0]}) TO ({bounds[1]})"
        )


def default_rows() -> int:
    """Rows in the default partition; more than 0 is an alarm."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM (SELECT 1 FROM recorder_event_default LIMIT 100000) t")
        row = cursor.fetchone()
    return int(row[0])
