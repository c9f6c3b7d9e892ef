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
from workers.runtime.live_tails import TURN_SECONDS, LiveTails
from workers.runtime.metric_history import Track
from workers.runtime.partition_lags import PartitionLags

BEAT_SECONDS = 2.0
METRICS_BEATS = 5
"""Every so many beats, which is every 10 s, the metrics are recorded too."""
STATEMENT_TIMEOUT_MS = 2000

logger = logging.getLogger("drakkar.heartbeat")


class Heartbeat:
    """Beats until closed, and reads its mail with each beat; live tails have turns between beats,
    too, while somebody reads them. ``snapshot`` and ``metrics`` are called on the heartbeat's
    thread."""

    def __init__(
        self,
        run: RunDescription,
        snapshot: Callable[[], Beat],
        metrics: Callable[[], dict[str, Any] | None],
        inbox: ControlInbox | None = None,
        tails: LiveTails | None = None,
    ) -> None:
        self._run = run
        self._inbox = inbox
        self._tails = tails
        self._snapshot = snapshot
        self._metrics = metrics
        self._beats = 0
        self._clock = Clock()
        self._track = Track(self._clock.wall)
        self._lags = PartitionLags(self._clock.now)
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
            self._supervised(self._beat)
            self._rest()
        self._supervised(self._beat)
        connection.close()

    def _rest(self) -> None:
        """Wait for the next beat; meanwhile the tails that somebody reads go on."""
        due = self._clock.now() + BEAT_SECONDS
        while not self._closing.is_set() and (left := due - self._clock.now()) > 0:
            tails = self._tails
            if tails is None or not tails.is_followed or not self._is_reached:
                self._closing.wait(left)
            elif not self._closing.wait(min(left, TURN_SECONDS)):
                self._supervised(tails.turn)

    def _beat(self) -> None:
        beat = self._lags.with_paces(self._snapshot())
        self._track.note(beat)
        self._write(beat)
        if self._inbox is not None:
            self._inbox.turn(is_last=self._closing.is_set())
        if self._tails is not None:
            self._tails.turn(is_last=self._closing.is_set())

    def _supervised(self, step: Callable[[], None]) -> None:
        """Take a step; whatever it raises is told, and the next one is taken all the same."""
        try:
            step()
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
            logger.exception("heartbeat: a turn failed")
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
