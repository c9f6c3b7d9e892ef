"""Writes rows exactly once: compare-and-set on the run first, then COPY, then commit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any
from uuid import UUID

import psycopg
from django.db import (
    DEFAULT_DB_ALIAS,
    DatabaseError,
    DataError,
    IntegrityError,
    OperationalError,
    connections,
    transaction,
)
from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg.pq import TransactionStatus

from recorder.databases import HISTORY, history_alias, is_apart
from recorder.models import Event, Run, StoredRun
from recorder.rows import Row
from recorder.run_changes import changes_of
from recorder.runs import RunDescription

GRACE_SECONDS = 2.0
HISTORY_STATEMENT_MS = 60_000
"""Bound of a statement in a history that is apart, where its asker sets none."""
CHECK_VIOLATION = "23514"
Project = Callable[[RunDescription, Sequence[Row]], None]
"""Writes more rows about these events, in the transaction that stores them."""


def no_projection(_run: RunDescription, _rows: Sequence[Row]) -> None:
    """Events only."""


def ensure_run(run: RunDescription) -> None:
    """Insert the run's row unless it is there, with what changed since the run before; where the
    history is apart, one beside its events."""
    if not Run.objects.filter(id=run.id).exists():
        _insert(run)
    if is_apart():
        known = Run.objects.filter(id=run.id).values_list("recorded_seq", flat=True).get()
        # Of a run from before the history had its own database this is all that was stored.
        StoredRun.objects.bulk_create(
            [StoredRun(id=run.id, recorded_seq=known)], ignore_conflicts=True
        )


def _insert(run: RunDescription) -> None:
    changes = changes_of(run)
    Run.objects.bulk_create(
        [
            Run(
                id=run.id,
                cluster=run.cluster,
                worker=run.worker,
                host=run.host,
                pid=run.pid,
                process=run.process,
                version=run.version,
                isolation=run.isolation,
                cgroups=run.cgroups,
                slots=run.slots,
                config_hash=run.config_hash,
                config=dict(run.config),
                environment=dict(run.environment),
                handler_version=run.handler_version,
                program_version=run.program_version,
                deployed_by=run.deployed_by,
                started_at=datetime.fromtimestamp(run.started_at, UTC),
                **changes.columns(),
            )
        ],
        ignore_conflicts=True,
    )


def stored_seq(run_id: UUID) -> int | None:
    """Return the number of a run's last stored event; None for a run that is not there."""
    rows = (StoredRun if is_apart() else Run)._default_manager.filter(id=run_id)
    return rows.values_list("recorded_seq", flat=True).first()


def flush(
    run: RunDescription,
    rows: Sequence[Row],
    recorded_seq: int,
    project: Project = no_projection,
) -> int:
    """Store rows in order of ``seq``; returns the run's new recorded seq.

    The compare-and-set makes a repeated flush harmless: when the database is already past
    ``recorded_seq`` (an acknowledgement was lost), what it has is dropped. Raises DatabaseError.

    Where the history is apart, only what stands there is one transaction with the events. What a
    projection writes into control (letters) is committed before, or not at all: it is written again
    with the batch, so it must not mind.
    """
    with transaction.atomic(using=history_alias()):
        last = rows[-1]["seq"]
        stored = (StoredRun if is_apart() else Run)._default_manager.filter(id=run.id)
        moved = stored.filter(recorded_seq=recorded_seq).update(recorded_seq=last)
        if moved:
            Event.objects.copy_in([{**row, "run": run.id} for row in rows])
            project(run, rows)
    seq = last if moved else stored_seq(run.id)
    if seq is None:
        raise DatabaseError(f"run {run.id} is not in the database")
    if is_apart():
        follow(run.id, seq)
    left = [row for row in rows if row["seq"] > seq]
    return flush(run, left, seq, project) if left else int(seq)


def follow(run_id: UUID, seq: int) -> None:
    """Have control know how far a run's events are stored in a history that is apart."""
    Run.objects.filter(id=run_id, recorded_seq__lt=seq).update(recorded_seq=seq)


def flush_narrowing(
    run: RunDescription,
    rows: Sequence[Row],
    recorded_seq: int,
    project: Project = no_projection,
    refused: dict[int, Row] | None = None,
) -> tuple[int, list[Row]]:
    """As ``flush``, but halve a batch refused for its data or size down to the bad row.

    Returns the new recorded seq and the rows that were refused (to be counted as shed). They are
    noted in ``refused`` by their ``seq``, too: when the connection breaks after a later row was
    stored, the next call passes over them, so give it the same dictionary.
    """
    refused = {} if refused is None else refused
    try:
        return _flush_into_days(run, rows, recorded_seq, project), list(refused.values())
    except (DatabaseError, OverflowError, ValueError, TypeError) as exc:
        if isinstance(exc, DatabaseError) and not is_about_the_rows(exc):
            raise
        if len(rows) == 1:
            refused[rows[0]["seq"]] = rows[0]
            return recorded_seq, list(refused.values())
    middle = len(rows) // 2
    recorded_seq, _ = flush_narrowing(run, rows[:middle], recorded_seq, project, refused)
    return flush_narrowing(run, rows[middle:], recorded_seq, project, refused)


def _flush_into_days(
    run: RunDescription, rows: Sequence[Row], recorded_seq: int, project: Project
) -> int:
    """As ``flush``, once more where the day of a row got its partition in that moment.

    The row was on its way into the default partition, whose bounds had just changed
    (check_violation): the next attempt finds the new one.
    """
    try:
        return flush(run, rows, recorded_seq, project)
    except IntegrityError as exc:
        if getattr(exc.__cause__, "sqlstate", None) != CHECK_VIOLATION:
            raise
    return flush(run, rows, recorded_seq, project)


def is_about_the_rows(error: DatabaseError) -> bool:
    """Whether other rows would be taken: bad data, a constraint broken (class 23), or past a limit
    of Postgres (54). A row whose day gets its partition now is not bad."""
    state = getattr(error.__cause__, "sqlstate", None) or ""
    is_refused = state.startswith(("23", "54")) and state != CHECK_VIOLATION
    return isinstance(error, DataError) or is_refused


def refuse_standby(cursor: Any) -> None:
    """Ask the server something. Raises OperationalError of one that became a standby: it grants
    advisory locks to whoever is still connected, while the primary grants them to others."""
    cursor.execute("SELECT pg_is_in_recovery()")
    if cursor.fetchone()[0]:
        raise OperationalError("the server is a standby: the primary is elsewhere")


def limit_statements(milliseconds: int, to: BaseDatabaseWrapper | None = None) -> None:
    """Bound every statement and lock wait of this thread's connection (None: that to control), on
    both sides.

    A server that is frozen keeps its sockets open and its own timeouts do not run: then the
    connection gives up by itself a little later, with an OperationalError.
    """
    connection = to or connections[DEFAULT_DB_ALIAS]
    connection.ensure_connection()
    _bound_waits(connection.connection, milliseconds / 1000.0 + GRACE_SECONDS)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT set_config('statement_timeout', %s, false), "
            "set_config('lock_timeout', %s, false)",
            [str(milliseconds), str(milliseconds)],
        )


def bound_history(connection: BaseDatabaseWrapper, **_: Any) -> None:
    """Bound a new connection to a history that is apart, unless its pool does that."""
    if connection.alias == HISTORY and "pool" not in connection.settings_dict["OPTIONS"]:
        limit_statements(HISTORY_STATEMENT_MS, connection)


def _bound_waits(raw: Any, seconds: float) -> None:
    """Bound each wait for the server. Called again, the newer bound holds."""
    wait = partial(type(raw).wait, raw)

    def bounded(generator: Any, *args: Any, **kwargs: Any) -> Any:
        kwargs["timeout"] = seconds
        try:
            return wait(generator, *args[:1], **kwargs)
        except psycopg.OperationalError:
            if raw.pgconn.transaction_status == TransactionStatus.ACTIVE:
                raw.pgconn.finish()  # else the rollback would wait for the same answer
            raise

    raw.wait = bounded
