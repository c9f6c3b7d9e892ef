"""Beat: a run's state in one round trip every 2 s, on a thread and a connection of its own."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from django.db import DatabaseError, DataError, connection
from django.db.models.functions import Now

from domain.beat import Beat, to_json
from recorder.models import RunState
from recorder.rows import clean
from recorder.runs import RunDescription
from recorder.writer import ensure_run, limit_statements
from workers.clock import Clock
from workers.runtime.control_inbox import ControlInbox
from workers.runtime.metric_history import Track

BEAT_SECONDS = 2.0
METRICS_BEATS = 5
"""Every so many beats, which is every 10 s, the metrics are recorded too."""
STATEMENT_TIMEOUT_MS = 2000

logger = logging.getLogger("drakkar.heartbeat")


class Heartbeat:
    """Beats until closed, and reads its mail with each beat. ``snapshot`` and ``metrics`` are
    called on the heartbeat's thread."""

    def __init__(
        self,
        run: RunDescription,
        snapshot: Callable[[], Beat],
        metrics: Callable[[], dict[str, Any] | None],
        inbox: ControlInbox | None = None,
    ) -> None:
        self._run = run
        self._inbox = inbox
        self._snapshot = snapshot
        self._metrics = metrics
        self._beats = 0
        self._track = Track(Clock().wall)
        self._closing = threading.Event()
        self._is_registered = False
        self._is_reached = True
        self._thread = threading.Thread(target=self._main, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Begin to beat; Postgres may be away."""
        self._thread.start()

    def close(self, timeout_seconds: float) -> bool:
        """Write the last state; True when it was written within the timeout."""
        self._closing.set()
        self._thread.join(timeout_seconds)
        return not self._thread.is_alive() and self._is_reached

    def _main(self) -> None:
        while not self._closing.is_set():
            self._beat()
            self._closing.wait(BEAT_SECONDS)
        self._beat()
        connection.close()

    def _beat(self) -> None:
        try:
            beat = self._snapshot()
            self._track.note(beat)
            self._write(beat)
            if self._inbox is not None:
                self._inbox.turn(is_last=self._closing.is_set())
            self._is_reached = True
        except DatabaseError as exc:
            if self._is_reached:
                logger.warning("heartbeat: Postgres is away: %s", exc)
            self._is_reached = False
            # A database brought back from a backup may not know this run.
            self._is_registered = False
            connection.close()
        except Exception:
            # A thread that ended would have the worker judged lost while it works.
            logger.exception("heartbeat: a beat failed")
            self._is_reached = False
            connection.close()

    def _write(self, beat: Beat) -> None:
        if connection.connection is None:
            limit_statements(STATEMENT_TIMEOUT_MS)
        if not self._is_registered:
            ensure_run(self._run)
            self._is_registered = True
        write_beat(self._run, beat)
        self._track.write(self._run)
        if self._beats % METRICS_BEATS == 0 or self._closing.is_set():
            self._write_metrics()
        self._beats += 1

    def _write_metrics(self) -> None:
        """Store what the port shows; figures that Postgres refuses cost no beat and no mail."""
        try:
            RunState.objects.filter(run=self._run.id).update(metrics=self._metrics())
        except (DataError, ValueError) as exc:
            logger.error("heartbeat: the metrics cannot be stored: %s", exc)


def write_beat(run: RunDescription, beat: Beat) -> None:
    """Replace the run's state row, stamped by the database's clock. Raises DatabaseError."""
    row = RunState(run_id=run.id, beat_at=Now(), **clean(to_json(beat)))
    since = beat.state_since
    row.state_since = None if since is None else datetime.fromtimestamp(since, UTC)
    row.ended_at = Now() if beat.state == "stopped" else None
    fields = [field.name for field in RunState._meta.concrete_fields if field.name != "run"]
    fields.remove("metrics")
    RunState.objects.bulk_create(
        [row], update_conflicts=True, unique_fields=["run"], update_fields=fields
    )
