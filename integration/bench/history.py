"""The history that the measured workers write: counted, weighed and thrown away."""

from __future__ import annotations

import psycopg

FATES = "SELECT count(*) FROM recorder_event WHERE kind IN ('message', 'message_completed')"
"""A row of its own, or the last step of a message in which nothing unusual happened."""

BYTES = (
    "SELECT coalesce(sum(pg_total_relation_size(inhrelid)), 0) FROM pg_inherits"
    " WHERE inhparent = 'recorder_event'::regclass"
)


def recorded_fates(database_url: str) -> int:
    """How many messages have a fate that is recorded."""
    return _number(database_url, FATES)


def history_bytes(database_url: str) -> int:
    """Bytes of all days' tables, with their indexes."""
    return _number(database_url, BYTES)


def forget_history(database_url: str) -> None:
    """Empty the history."""
    with psycopg.connect(database_url) as connection:
        connection.execute("TRUNCATE recorder_event")


def _number(database_url: str, query: bytes | str) -> int:
    with psycopg.connect(database_url) as connection:
        row = connection.execute(query).fetchone()
    return int(row[0]) if row else 0
