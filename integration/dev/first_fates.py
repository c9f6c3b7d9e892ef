"""The first message of each fate, as the history tells of it, for a line on the console."""

from __future__ import annotations

from dataclasses import dataclass

import psycopg

ASK_SECONDS = 2
_FATES = """
    SELECT topic, partition, "offset",
        CASE WHEN kind = 'message' AND position('d' in data->>'kinds') > 0 THEN 'delivered'
             WHEN kind = 'message' THEN 'filtered' ELSE data->>'fate' END AS fate,
        coalesce(data->>'reason', '')
    FROM recorder_event
    WHERE ts >= to_timestamp(%s) AND (kind = 'message_completed'
        OR (kind = 'message' AND position('m' in data->>'kinds') > 0))
    ORDER BY ts, seq LIMIT 1000
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A message that got its fate."""

    topic: str
    partition: int
    offset: int
    fate: str
    reason: str


def first_fates(database_url: str, since: float) -> dict[str, Ended]:
    """Return the first message of each fate since then (UTC epoch seconds); none of them while
    Postgres is away."""
    found: dict[str, Ended] = {}
    try:
        with psycopg.connect(database_url, connect_timeout=ASK_SECONDS) as connection:
            rows = connection.execute(_FATES, (since,)).fetchall()
    except psycopg.Error:
        return found
    for topic, partition, offset, fate, reason in rows:
        ended = Ended(topic=topic, partition=partition, offset=offset, fate=fate, reason=reason)
        found.setdefault(str(fate), ended)
    return found
