"""The controller: one leader in the fleet that runs the jobs no worker should run."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from typing import Any

from django.db import DatabaseError, connection
from django.db.models import Count
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from domain.events import Tell
from recorder.models import RunState, RunStateName
from recorder.partitions import default_rows
from recorder.writer import limit_statements
from workers.clock import Clock
from workers.jobs import JOBS, Turn

LEADER_LOCK = 0x6472616B6B6172
TURN_SECONDS = 1.0
STATEMENT_TIMEOUT_MS = 5000

logger = logging.getLogger("drakkar.controller")


class Controller:
    """Leads where the advisory lock is free; a broken connection gives the lock up by itself."""

    def __init__(self, tell: Tell, clock: Clock) -> None:
        self._tell = tell
        self._clock = clock
        self._stopping = threading.Event()
        self._due = {job.name: 0.0 for job in JOBS}
        self._reached = 0
        self.is_leader = False
        self.figures: dict[str, Any] = {"workers": {}, "default_rows": None}

    def stop(self) -> None:
        """End soon; callable from a signal handler."""
        self._stopping.set()

    @property
    def is_stopping(self) -> bool:
        """Whether ``stop`` was called."""
        return self._stopping.is_set()

    def run(self) -> None:
        """Lead, or wait for leadership, until stopped."""
        while not self._stopping.is_set():
            self.turn()
            self._stopping.wait(TURN_SECONDS)
        connection.close()

    def turn(self) -> None:
        """One round: every job that is due. A failed database is told once and tried again."""
        try:
            if connection.connection is None:
                self.is_leader = False
                limit_statements(STATEMENT_TIMEOUT_MS)
            self._lead()
            if self.is_leader:
                self._run_due()
            self._count()
            self._reached += 1
        except DatabaseError as exc:
            if self._reached:
                logger.warning("controller: Postgres is away: %s", exc)
            self._reached, self.is_leader = 0, False
            connection.close()

    def _lead(self) -> None:
        if self.is_leader:
            return
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_try_advisory_lock(%s)", [LEADER_LOCK])
            row = cursor.fetchone()
        self.is_leader = bool(row[0])
        if self.is_leader:
            logger.info("controller: leading")

    def _run_due(self) -> None:
        turn = Turn(tell=self._tell, wall=self._clock.wall(), reached=self._reached)
        now = time.monotonic()
        for job in JOBS:
            if now >= self._due[job.name]:
                job.run(turn)
                self._due[job.name] = now + job.interval_seconds

    def _count(self) -> None:
        rows = RunState.objects.values_list("state").annotate(count=Count("run"))
        self.figures = {"workers": dict(rows), "default_rows": default_rows()}


class ControllerCollector(Collector):
    """The controller's metrics (docs/metrics.md)."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller

    def collect(self) -> Iterator[Any]:
        """Render what the last turn saw."""
        figures = self._controller.figures
        workers = GaugeMetricFamily("drakkar_control_workers", "Runs by state.", labels=["state"])
        for state in RunStateName.values:
            workers.add_metric([state], figures["workers"].get(state, 0))
        yield workers
        rows = GaugeMetricFamily(
            "drakkar_control_default_partition_rows",
            "Events that have no day partition; more than 0 is an alarm.",
        )
        if figures["default_rows"] is not None:
            rows.add_metric([], figures["default_rows"])
        yield rows
