"""Names of live workers: who holds one, and whether it may be taken over."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum, auto

from django.db import DatabaseError, connection, transaction
from django.db.models import DurationField, ExpressionWrapper, F
from django.db.models.functions import Now

from recorder.models import RunState, RunStateName
from recorder.runs import RunDescription
from recorder.writer import ensure_run, limit_statements
from workers.runtime.heartbeat import BEAT_SECONDS, STATEMENT_TIMEOUT_MS
from workers.runtime.process_identity import ProcessIdentity

SILENT_SECONDS = 3 * BEAT_SECONDS
FRESH_SECONDS = 1.5 * BEAT_SECONDS
"""A last beat younger than this was not followed by a missed one."""
LOOK_SECONDS = 0.5

logger = logging.getLogger("drakkar.naming")


class Naming(Enum):
    """Outcome of asking for a name."""

    TAKEN = auto()
    """Name is ours, and the run is registered."""
    UNKNOWN = auto()
    """Postgres is away: nobody can say whose it is, and the work does not wait for that."""
    STOPPED = auto()
    """The worker was told to stop meanwhile."""


class NameHeld(Exception):
    """Another worker of that name is alive; the text names it and says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Another run of our name that did not end; silent for so long by the database's clock."""

    run: uuid.UUID
    host: str
    pid: int
    process: str
    beat_at: datetime
    silent_seconds: float

    def is_gone(self, heir: RunDescription) -> bool:
        """Tell whether our run may take its name: it fell silent, or died where we can see it.

        Only a process of our own boot and PID namespace can be looked for: another container may
        have our host name, and a live process of the number that is ours or nobody's here.
        """
        if self.silent_seconds >= SILENT_SECONDS:
            return True
        own, its = ProcessIdentity.parse(heir.process), ProcessIdentity.parse(self.process)
        if self.host != heir.host or own is None or its is None or its.place != own.place:
            return False
        is_ours = (its, self.pid) == (own, heir.pid)
        return is_ours or not its.lives(self.pid)

    def still_beats(self, first: datetime) -> bool:
        """Tell whether it beat since ``first`` and misses no beat now."""
        return self.beat_at > first and self.silent_seconds < FRESH_SECONDS


def take_name(run: RunDescription, stopping: threading.Event) -> Naming:
    """Register the run under its name, waiting up to three beats for a holder to fall silent.

    Blocks: for a thread of its own, whose database connection is closed. Raises NameHeld when the
    holder still beats.
    """
    try:
        limit_statements(STATEMENT_TIMEOUT_MS)
        return _take(run, stopping)
    except DatabaseError as exc:
        logger.warning("name %s: not known whether it is free: %s", run.worker, exc)
        return Naming.UNKNOWN
    finally:
        connection.close()


def _take(run: RunDescription, stopping: threading.Event) -> Naming:
    deadline = time.monotonic() + SILENT_SECONDS
    first: dict[uuid.UUID, datetime] = {}
    while held := claim(run):
        new = {holder.run: holder.beat_at for holder in held if holder.run not in first}
        for holder in held:
            if holder.run in new:
                logger.warning("name %s: %s; waiting for its end", run.worker, _words(holder))
        first |= new
        if time.monotonic() >= deadline:
            _refuse(run, held, first)
        if stopping.wait(LOOK_SECONDS):
            return Naming.STOPPED
    return Naming.TAKEN


def _refuse(run: RunDescription, held: list[Holder], first: Mapping[uuid.UUID, datetime]) -> None:
    for holder in held:
        if holder.still_beats(first[holder.run]):
            raise NameHeld(
                f"--name: {run.worker!r} of cluster {run.cluster!r} is alive: {_words(holder)}. "
                "Stop it first, or choose another name (--name or WORKER_ID)"
            )


def _words(holder: Holder) -> str:
    return (
        f"process {holder.pid} on {holder.host} (run {holder.run}), "
        f"last heard {holder.silent_seconds:.1f} s ago"
    )


def claim(run: RunDescription) -> list[Holder]:
    """Register the run unless its name is held, and return who holds it. Raises DatabaseError.

    Looking and registering are one step: of two that start together, one sees the other.
    """
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))",
                [f"drakkar worker {run.cluster}/{run.worker}"],
            )
        held = [each for each in holders(run) if not each.is_gone(run)]
        if not held:
            ensure_run(run)
            first = RunState(run_id=run.id, state=RunStateName.STARTING, beat_at=Now())
            RunState.objects.bulk_create([first], ignore_conflicts=True)
    return held


def holders(run: RunDescription) -> list[Holder]:
    """Return the other runs of that name that neither ended nor were judged lost."""
    silent = ExpressionWrapper(Now() - F("beat_at"), output_field=DurationField())
    states = (
        RunState.objects.filter(
            run__cluster=run.cluster, run__worker=run.worker, ended_at__isnull=True
        )
        .exclude(run_id=run.id)
        .exclude(state__in=[RunStateName.STOPPED, RunStateName.LOST])
        .annotate(silent=silent)
        .values_list("run_id", "run__host", "run__pid", "run__process", "beat_at", "silent")
    )
    return [
        Holder(
            run=run_id,
            host=host,
            pid=pid,
            process=process,
            beat_at=beat_at,
            silent_seconds=silent.total_seconds(),
        )
        for run_id, host, pid, process, beat_at, silent in states
    ]
