"""Ledger of a postgres sink with ``dedup``: which payloads it stored already.

One row a delivery id. ``scopes`` lists the sinks and tables that have it: the same ``delivery_key``
may go to several. A row without any is of a release that kept no scopes, or of a worker that still
runs one: it counts for all, and such a worker takes a row with scopes for delivered, as it always
did. So both may share a ledger.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any

import psycopg

STEP_ROWS = 1000
STEP_PAUSE_SECONDS = 0.05
"""Between two steps of forgetting, so that deliveries go first."""
FIRST_SECONDS, EVERY_SECONDS = 10.0, 600.0

ADD_SCOPES = (
    "ALTER TABLE drakkar_deliveries ADD COLUMN IF NOT EXISTS scopes text[] NOT NULL DEFAULT '{}'"
)
BUILD_INDEX = (
    "CREATE INDEX CONCURRENTLY IF NOT EXISTS drakkar_deliveries_at ON drakkar_deliveries (at)"
)

_STATE = """
SELECT to_regclass('drakkar_deliveries') IS NOT NULL, EXISTS (
    SELECT FROM pg_attribute WHERE attrelid = to_regclass('drakkar_deliveries')
    AND attname = 'scopes' AND NOT attisdropped)
"""
_CREATE = """
CREATE TABLE IF NOT EXISTS drakkar_deliveries (
    delivery_id text PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT now(),
    scopes text[] NOT NULL DEFAULT '{}'
)
"""
_INDEX_OF_A_NEW_ONE = "CREATE INDEX IF NOT EXISTS drakkar_deliveries_at ON drakkar_deliveries (at)"
# One at a time: IF NOT EXISTS does not keep two sessions from making the same thing.
_ALONE = "SELECT pg_advisory_xact_lock(hashtext('drakkar_deliveries'))"

_REMEMBER = """
INSERT INTO drakkar_deliveries AS held (delivery_id, scopes)
SELECT delivery_id, ARRAY[%s] FROM unnest(%s::text[]) AS delivery_id
ON CONFLICT (delivery_id) DO UPDATE SET scopes = held.scopes || EXCLUDED.scopes, at = now()
WHERE held.scopes <> '{}' AND NOT held.scopes @> EXCLUDED.scopes
RETURNING delivery_id
"""

_INDEX_IS_VALID = (
    "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('drakkar_deliveries_at')"
)
_INDEX_IS_BEING_BUILT = (
    "SELECT FROM pg_stat_progress_create_index WHERE relid = to_regclass('drakkar_deliveries')"
)
_FORGET = """
DELETE FROM drakkar_deliveries WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM drakkar_deliveries
    WHERE at < now() - make_interval(days => %s) AND (
        SELECT pg_try_advisory_xact_lock(hashtext('drakkar_deliveries forgets')))
    ORDER BY at LIMIT %s FOR UPDATE SKIP LOCKED
))
"""

logger = logging.getLogger("drakkar.sinks")

Connection = psycopg.Connection[Any]


def make_ledger(connection: Connection) -> None:
    """Make the ledger, or give an old one its scopes; changes nothing where both are there.

    Waits a second at most for the lock: who queues for it holds up those who deliver. Raises
    psycopg.Error.
    """
    found = connection.execute(_STATE).fetchone()
    if found == (True, True):
        return
    with connection.transaction():
        connection.execute("SET LOCAL lock_timeout = '1s'")
        connection.execute(_ALONE)
        if found == (True, False):
            connection.execute(ADD_SCOPES)
        else:
            connection.execute(_CREATE)
            connection.execute(_INDEX_OF_A_NEW_ONE)


def remember(connection: Connection, deliveries: Sequence[tuple[str, str]]) -> list[int]:
    """Enter each delivery id under its scope; the places of those that were not there yet.

    Of one id and scope that stands several times in ``deliveries``, only the first is new. Runs in
    the caller's transaction, which stores what is new. Raises psycopg.Error.
    """
    places: dict[str, dict[str, int]] = {}
    for place, (delivery_id, scope) in enumerate(deliveries):
        places.setdefault(scope, {}).setdefault(delivery_id, place)
    new: list[int] = []
    for scope in sorted(places):
        # In one order in every transaction, so that two of them do not wait for each other.
        rows = connection.execute(_REMEMBER, [scope, sorted(places[scope])]).fetchall()
        new += [places[scope][row[0]] for row in rows]
    return sorted(new)


def forget(connection: Connection, older_than_days: int, limit: int = STEP_ROWS) -> int:
    """Delete up to ``limit`` entries of that age; how many. Nothing while another session does.

    Raises psycopg.Error.
    """
    return connection.execute(_FORGET, [older_than_days, limit]).rowcount


def index_by_age(connection: Connection) -> None:
    """Build the index that forgetting needs, where a ledger of an earlier release has none.

    Nobody waits for it, however large the ledger is. ``connection`` is in autocommit and may take
    its time. Raises psycopg.Error.
    """
    if connection.execute(_INDEX_IS_VALID).fetchone() == (True,):
        return
    if connection.execute(_INDEX_IS_BEING_BUILT).fetchone() is not None:
        return  # by another worker
    if connection.execute(_INDEX_IS_VALID).fetchone() == (False,):  # a build that was cut short
        connection.execute("DROP INDEX CONCURRENTLY IF EXISTS drakkar_deliveries_at")
    connection.execute(BUILD_INDEX)


class LedgerUpkeep:
    """Forgets what is old in one ledger, in small steps, by a thread and connection of its own.

    Shared by all sinks of a process with the same DSN: the longest of their retentions counts.
    """

    def __init__(self, connect: Callable[[], Connection]) -> None:
        self._connect = connect
        self._days: list[int] = []
        self._stop = threading.Event()

    @property
    def days(self) -> int:
        """After how many days an entry is forgotten."""
        return max(self._days)

    def join(self, days: int) -> None:
        """Keep entries for at least that long."""
        self._days.append(days)
        if len(self._days) == 1:
            threading.Thread(target=self._run, name="ledger-upkeep", daemon=True).start()

    def leave(self, days: int) -> bool:
        """One sink less; True when it was the last and the thread is to end."""
        self._days.remove(days)
        if not self._days:
            self._stop.set()
        return not self._days

    def _run(self) -> None:
        wait_seconds = FIRST_SECONDS
        while not self._stop.wait(wait_seconds):
            self.run_once()
            wait_seconds = EVERY_SECONDS

    def run_once(self) -> int:
        """Forget all that is old; how many entries. What fails is logged, with the cure."""
        forgotten, days = 0, max(self._days, default=0)
        try:
            with self._connect() as connection:
                index_by_age(connection)
                while days and (step := forget(connection, days)):
                    forgotten += step
                    if step < STEP_ROWS or self._stop.wait(STEP_PAUSE_SECONDS):
                        break
        except Exception as exc:  # noqa: BLE001 - nothing may end the thread: the ledger would grow
            logger.warning(
                "the ledger drakkar_deliveries is not pruned and grows: %s; its role needs DELETE, "
                "and the index by age: %s",
                " ".join(str(exc).split()),
                BUILD_INDEX,
            )
        return forgotten


_upkeeps: dict[str, LedgerUpkeep] = {}
_lock = threading.Lock()


def keep_up(dsn: str, days: int, connect: Callable[[], Connection]) -> Callable[[], None]:
    """Have the ledger of that DSN forget what is older; call the answer when the sink closes."""
    with _lock:
        upkeep = _upkeeps.setdefault(dsn, LedgerUpkeep(connect))
        upkeep.join(days)

    def leave() -> None:
        with _lock:
            if upkeep.leave(days):
                del _upkeeps[dsn]

    return leave
