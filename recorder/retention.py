"""Keeps the history within its days and bytes, by dropping whole days while workers write."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from django.db import transaction

from recorder.databases import history, history_alias
from recorder.partitions import (
    DEFAULT,
    LOCK_TIMEOUT_MS,
    MOVING,
    PREFIX,
    existing_days,
    name_of,
)

STRAY_ROWS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """Bounds of what is kept, in time and size; ``max_bytes`` None bounds nothing."""

    days: int
    max_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Day:
    """A day's table with what it weighs, indexes included, and why it goes."""

    day: date
    size_bytes: int
    reason: str = ""


def plan(retention: Retention, now: datetime) -> list[Day]:
    """Return the days that go, oldest first. Today and what comes never goes, however large it
    is."""
    today = now.astimezone(UTC).date()
    days = [Day(day=day, size_bytes=size_of(name_of(day))) for day in sorted(existing_days())]
    return list(choose(days, retention, today, size_of(DEFAULT) + size_of(MOVING)))


def choose(
    days: Sequence[Day], retention: Retention, today: date, other_bytes: int = 0
) -> Iterator[Day]:
    """Return which of the days (oldest first) go: those past their time, then the oldest past the
    bytes.

    A day goes when its last moment is ``retention.days`` old.
    """
    total = other_bytes + sum(day.size_bytes for day in days)
    for day in days:
        is_old = day.day < today - timedelta(days=retention.days)
        is_over = retention.max_bytes is not None and total > retention.max_bytes
        if day.day < today and (is_old or is_over):
            total -= day.size_bytes
            reason = "history_retention_days" if is_old else "history_max_bytes"
            yield Day(day=day.day, size_bytes=day.size_bytes, reason=reason)


def size_of(table: str) -> int:
    """Bytes of a table with its indexes; 0 when it is not there."""
    with history().cursor() as cursor:
        cursor.execute("SELECT coalesce(pg_total_relation_size(to_regclass(%s)), 0)", [table])
        row = cursor.fetchone()
    return int(row[0])


def drop(day: date) -> None:
    """Detach a day, then drop its table: two short transactions, so writers wait a moment only.

    Raises OperationalError when a lock cannot be had within a second: try again later.
    """
    with transaction.atomic(using=history_alias()), history().cursor() as cursor:
        cursor.execute(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}")
        cursor.execute(f"ALTER TABLE recorder_event DETACH PARTITION {name_of(day)}")
    _drop_table(name_of(day))


def drop_detached() -> list[str]:
    """Drop tables of days that were detached by one that died before dropping them."""
    with history().cursor() as cursor:
        cursor.execute(
            "SELECT relname FROM pg_class WHERE relkind = 'r' AND relname ~ %s "
            "AND NOT relispartition AND pg_table_is_visible(oid)",
            [f"^{PREFIX}[0-9]{{8}}$"],
        )
        names = [str(row[0]) for row in cursor.fetchall()]
    for name in names:
        _drop_table(name)
    return names


def _drop_table(name: str) -> None:
    with transaction.atomic(using=history_alias()), history().cursor() as cursor:
        cursor.execute(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}")
        cursor.execute(f"DROP TABLE {name}")


def delete_strays(retention: Retention, now: datetime) -> int:
    """Delete old rows that lie in the default partition, up to 10,000 a call; returns how many."""
    edge = now.astimezone(UTC).date() - timedelta(days=retention.days)
    with history().cursor() as cursor:
        cursor.execute(
            "DELETE FROM recorder_event_default WHERE (id, ts) IN "
            "(SELECT id, ts FROM recorder_event_default WHERE ts < %s LIMIT %s)",
            [datetime(edge.year, edge.month, edge.day, tzinfo=UTC), STRAY_ROWS],
        )
        return int(cursor.rowcount)


def prune(retention: Retention, now: datetime) -> list[Day]:
    """Drop what has to go; returns the days dropped. Raises OperationalError as ``drop``."""
    drop_detached()
    gone = plan(retention, now)
    for day in gone:
        drop(day.day)
    while delete_strays(retention, now) == STRAY_ROWS:
        pass
    return gone
