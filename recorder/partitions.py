"""Partitions of the events table, of a day or an hour: made ahead, emptied out of the default one.

A day is cut into hours where more than half of ``site.history_max_bytes`` would come together in
it: then the oldest hours of today can go. Each partition's bounds say what it holds; the table of a
day stays what it is when the days after it come in hours, and the other way round.

A row whose day has no partition falls into the default one. While it lies there that day cannot get
a partition: Postgres would have to look at every row, with writers shut out. So the default table
is put aside as a whole, which takes a moment, an empty one takes its place, and the rows move from
there into their days a few thousand at a time, however many there are.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from django.db import OperationalError, transaction
from psycopg import sql

from recorder.databases import history, history_alias

logger = logging.getLogger("drakkar.controller")

DAYS_AHEAD = 14
"""So long may the controller be away before rows fall into the default partition."""
LOCK_TIMEOUT_MS = 1000
PREFIX = "recorder_event_"
DEFAULT = f"{PREFIX}default"
MOVING = f"{PREFIX}moving"
"""Default partition of before, while its rows move."""
MOVE_PAGES = 250
"""Pages of 8 KiB that one transaction moves, 5,000 to 10,000 rows; fewer where that takes long."""
STEP_SECONDS = 0.25
QUERY_CANCELED = "57014"
MOVE_SECONDS = 120.0
"""Seconds that one call moves rows; the next goes on."""
HOURLY_DAYS = 2
"""Days after today that are cut into hours, where they come in hours."""
DAY, HOUR = timedelta(days=1), timedelta(hours=1)
NAME = re.compile(rf"{PREFIX}(?P<day>\d{{8}})(?:_(?P<hour>\d\d))?", re.ASCII)
MAX_STRAY_DAYS = 100
MAX_STRAY_AGE_DAYS = 400
"""Rows of an older day stay in the default partition, for the retention to delete."""


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """Time that a partition holds, ``end`` left out: a whole day or an hour, in UTC."""

    begin: datetime
    end: datetime

    @classmethod
    def of_day(cls, day: date) -> Span:
        """Return a whole day."""
        return cls(_begin(day), _begin(day) + DAY)

    @property
    def is_day(self) -> bool:
        """Whether it is a whole day."""
        return self.end - self.begin == DAY

    @property
    def table(self) -> str:
        """Name of its table."""
        return PREFIX + self.begin.strftime("%Y%m%d" if self.is_day else "%Y%m%d_%H")

    def hours(self) -> list[Span]:
        """Return its hours."""
        count = int((self.end - self.begin) / HOUR)
        return [Span(self.begin + n * HOUR, self.begin + (n + 1) * HOUR) for n in range(count)]

    def meets(self, other: Span) -> bool:
        """Whether both have some time in common."""
        return self.begin < other.end and other.begin < self.end

    def __str__(self) -> str:
        return f"{self.begin:%Y-%m-%d}" if self.is_day else f"{self.begin:%Y-%m-%d %H:00}"


def existing_spans() -> list[Span]:
    """Return what the partitions hold, oldest first, the default one left out."""
    with history().cursor() as cursor:
        cursor.execute(
            "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid "
            "WHERE i.inhparent = 'recorder_event'::regclass"
        )
        found = [span_named(row[0]) for row in cursor.fetchall()]
    return sorted(span for span in found if span is not None)


def span_named(table: str) -> Span | None:
    """Return what a table of that name holds; None where it is none of a day or hour."""
    found = NAME.fullmatch(table)
    if found is None:
        return None
    begin = datetime.strptime(found["day"], "%Y%m%d").replace(tzinfo=UTC)
    if found["hour"] is None:
        return Span(begin, begin + DAY)
    begin += int(found["hour"]) * HOUR
    return Span(begin, begin + HOUR)


def create_ahead(now: datetime, days: int = DAYS_AHEAD, max_bytes: int | None = None) -> list[Span]:
    """Make the partitions of today, the days ahead, and past days whose rows lie in the default
    one, whose rows move; returns those made.

    Idempotent; rows that could not move in time move with the next call. Raises OperationalError
    when a lock cannot be had within a second: try again later.
    """
    move_rows()
    is_hourly = comes_in_hours(now, max_bytes)
    if is_hourly:
        _cut_empty_days(now)
    today = now.astimezone(UTC).date()
    strays = days_in_default(today - timedelta(days=MAX_STRAY_AGE_DAYS))
    strays = [day for day in strays if day <= today + timedelta(days=days)]
    missing = list(missing_spans(existing_spans(), strays, now, days=days, is_hourly=is_hourly))
    if missing and strays:
        _put_default_aside(missing)
        move_rows()
        return missing
    for span in missing:
        create_span(span)
    return missing


def missing_spans(
    existing: Sequence[Span], strays: Collection[date], now: datetime, *, days: int, is_hourly: bool
) -> Iterator[Span]:
    """Yield what has to be made, oldest first: days, and hours of those that come in hours or of
    which some are there. What is over is made for rows that lie in the default partition only."""
    today = now.astimezone(UTC).date()
    ahead = {today + timedelta(days=n) for n in range(days + 1)}
    for day in sorted(ahead | set(strays)):
        whole = Span.of_day(day)
        known = [span for span in existing if span.meets(whole)]
        in_hours = is_hourly and day <= today + timedelta(days=HOURLY_DAYS)
        wanted = whole.hours() if known or in_hours else [whole]
        for span in wanted:
            is_to_come = span.end > now or day in strays
            if is_to_come and not any(span.meets(each) for each in known):
                yield span


def comes_in_hours(now: datetime, max_bytes: int | None) -> bool:
    """Tell whether a day is more than half of what the history may weigh, judged by what came since
    the begin of yesterday."""
    if max_bytes is None:
        return False
    latest = Span(_begin(now.astimezone(UTC).date()) - DAY, now)
    weight = sum(size_of(span.table) for span in existing_spans() if span.meets(latest))
    hours = (latest.end - latest.begin) / HOUR
    return 2 * weight * 24 > max_bytes * hours


def _cut_empty_days(now: datetime) -> None:
    """Give the next days hours in place of their tables, which are empty."""
    today = now.astimezone(UTC).date()
    coming = [Span.of_day(today + timedelta(days=n)) for n in range(1, HOURLY_DAYS + 1)]
    for span in set(coming) & set(existing_spans()):
        with transaction.atomic(using=history_alias()), history().cursor() as cursor:
            cursor.execute(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}")
            cursor.execute("LOCK TABLE ONLY recorder_event IN ACCESS EXCLUSIVE MODE")
            cursor.execute(f"SELECT EXISTS (SELECT 1 FROM {span.table})")  # noqa: S608
            if not cursor.fetchone()[0]:
                cursor.execute(f"DROP TABLE {span.table}")
                for hour in span.hours():
                    create_span(hour)


def size_of(table: str) -> int:
    """Bytes of a table with its indexes; 0 when it is not there."""
    with history().cursor() as cursor:
        cursor.execute("SELECT coalesce(pg_total_relation_size(to_regclass(%s)), 0)", [table])
        return int(cursor.fetchone()[0])


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


def create_span(span: Span) -> None:
    """Attach an empty partition, unless it is there."""
    with transaction.atomic(using=history_alias()), history().cursor() as cursor:
        cursor.execute(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}")
        # Serialises makers; not the days, which autovacuum may hold for minutes.
        cursor.execute("LOCK TABLE ONLY recorder_event IN SHARE UPDATE EXCLUSIVE MODE")
        if any(span.meets(each) for each in existing_spans()):
            return
        cursor.execute(f"CREATE TABLE {span.table} (LIKE recorder_event INCLUDING DEFAULTS)")
        cursor.execute(
            f"ALTER TABLE recorder_event ATTACH PARTITION {span.table} "
            f"FOR VALUES FROM ('{span.begin.isoformat()}') TO ('{span.end.isoformat()}')"
        )


def _put_default_aside(spans: Iterable[Span]) -> None:
    """Give the events an empty default partition, and these times theirs, in one moment."""
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
        for span in spans:
            create_span(span)


def move_rows(seconds: float = MOVE_SECONDS) -> int:
    """Move rows that were put aside into their days, for so long at the most; returns how many."""
    if not _is_there(MOVING):
        return 0
    until, moved, first, step = time.monotonic() + seconds, 0, 0, MOVE_PAGES
    pages = _pages(MOVING)
    while first < pages:
        began = time.monotonic()
        if began > until:
            logger.info("partitions: %d rows moved, %d pages are left", moved, pages - first)
            return moved
        try:
            moved += _move_pages(first, step)
        except OperationalError as exc:
            if not _is_too_slow(exc) or step == 1:
                raise
            step = max(1, step // 4)
            continue
        first += step
        step = min(MOVE_PAGES, 2 * step if time.monotonic() - began < STEP_SECONDS else step)
    _drop_moving()
    return moved


def _is_too_slow(error: OperationalError) -> bool:
    """Whether a step ran into the statement timeout of its connection: a smaller one may not."""
    return getattr(error.__cause__, "sqlstate", None) == QUERY_CANCELED


def _drop_moving() -> None:
    """Drop the table put aside, once nothing is left in it."""
    with transaction.atomic(using=history_alias()), history().cursor() as cursor:
        cursor.execute(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}")
        cursor.execute(f"LOCK TABLE {MOVING} IN ACCESS EXCLUSIVE MODE")
        cursor.execute(f"SELECT EXISTS (SELECT 1 FROM {MOVING})")  # noqa: S608
        if not cursor.fetchone()[0]:
            cursor.execute(f"DROP TABLE {MOVING}")


def _move_pages(first: int, count: int) -> int:
    """Move what lies in some pages, in one short transaction. Nobody writes to this table."""
    columns = sql.SQL(", ").join(map(sql.Identifier, _columns()))
    statement = sql.SQL(
        "WITH moved AS (DELETE FROM {moving} WHERE ctid >= {begin}::tid AND ctid < {end}::tid "
        "RETURNING {columns}) INSERT INTO recorder_event ({columns}) SELECT {columns} FROM moved"
    ).format(
        moving=sql.Identifier(MOVING),
        columns=columns,
        begin=sql.Literal(f"({first},0)"),
        end=sql.Literal(f"({first + count},0)"),
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
