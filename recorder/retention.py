"""Keeps the history within its days and bytes, by dropping days or hours while workers write."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from django.db import transaction

from recorder.databases import history, history_alias
from recorder.partitions import (
    DEFAULT,
    LOCK_TIMEOUT_MS,
    MOVING,
    PREFIX,
    Span,
    existing_spans,
    size_of,
)

STRAY_ROWS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """Bounds of what is kept, in time and size; ``max_bytes`` None bounds nothing."""

    days: int
    max_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A partition with what it weighs, indexes included, and why it goes."""

    span: Span
    size_bytes: int
    reason: str = ""


def plan(retention: Retention, now: datetime) -> list[Part]:
    """Return the partitions that go, oldest first. One that may still be written never goes,
    however large it is: today, or this hour, and what comes."""
    parts = [Part(span=span, size_bytes=size_of(span.table)) for span in existing_spans()]
    return list(choose(parts, retention, now, size_of(DEFAULT) + size_of(MOVING)))


def choose(
    parts: Sequence[Part], retention: Retention, now: datetime, other_bytes: int = 0
) -> Iterator[Part]:
    """Return which of the partitions (oldest first) go: those past their time, then the oldest past
    the bytes.

    One goes when the day of its last moment is ``retention.days`` old.
    """
    today = now.astimezone(UTC).date()
    total = other_bytes + sum(part.size_bytes for part in parts)
    for part in parts:
        is_old = part.span.begin.date() < today - timedelta(days=retention.days)
        is_over = retention.max_bytes is not None and total > retention.max_bytes
        if part.span.end <= now and (is_old or is_over):
            total -= part.size_bytes
            yield replace(part, reason="history_retention_days" if is_old else "history_max_bytes")


def drop(span: Span) -> None:
    """Detach a partition, then drop its table: two short transactions, so writers wait a moment.

    Raises OperationalError when a lock cannot be had within a second: try again later.
    """
    with transaction.atomic(using=history_alias()), history().cursor() as cursor:
        cursor.execute(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}")
        cursor.execute(f"ALTER TABLE recorder_event DETACH PARTITION {span.table}")
    _drop_table(span.table)


def drop_detached() -> list[str]:
    """Drop tables of days and hours that were detached by one that died before dropping them."""
    with history().cursor() as cursor:
        cursor.execute(
            "SELECT relname FROM pg_class WHERE relkind = 'r' AND relname ~ %s "
            "AND NOT relispartition AND pg_table_is_visible(oid)",
            [f"^{PREFIX}[0-9]{{8}}(_[0-9]{{2}})?$"],
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


def prune(retention: Retention, now: datetime) -> list[Part]:
    """Drop what has to go; returns the partitions dropped. Raises OperationalError as ``drop``."""
    drop_detached()
    gone = plan(retention, now)
    for part in gone:
        drop(part.span)
    while delete_strays(retention, now) == STRAY_ROWS:
        pass
    return gone
