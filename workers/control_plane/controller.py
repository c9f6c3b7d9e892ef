"""Controller: one leader in the fleet that runs the jobs no worker should run."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from django.db import DatabaseError, InterfaceError, OperationalError, connection
from django.db.models import Count
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from domain.events import Tell
from recorder.databases import close_own_connections
from recorder.models import RunState, RunStateName
from recorder.writer import limit_statements, refuse_standby
from workers.clock import Clock
from workers.control_plane.jobs import JOBS, Job, Turn, Upkeep

LEADER_LOCK = 0x6472616B6B6172
TURN_SECONDS = 1.0
STATEMENT_TIMEOUT_MS = 5000
LONG_STATEMENT_TIMEOUT_MS = 60_000
MAX_BACKOFF_SECONDS = 60.0

logger = logging.getLogger("drakkar.controller")


@dataclass(slots=True)
class Standing:
    """State of a job: when it is due, its failures in a row and in all, its thread."""

    due: float = 0.0
    in_a_row: int = 0
    failures: int = 0
    thread: threading.Thread | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Counts of the last turn that reached Postgres; None until there was one."""

    runs: Mapping[str, int] | None = None
    default_rows: int | None = None


class Controller:
    """Leads where the advisory lock is free; a broken connection gives the lock up by itself."""

    def __init__(
        self, tell: Tell, clock: Clock, upkeep: Upkeep, jobs: Sequence[Job] = JOBS
    ) -> None:
        self._tell = tell
        self._clock = clock
        self._upkeep = upkeep
        self._jobs = jobs
        self._stopping = threading.Event()
        self._lags: dict[str, int | None] = {}
        self._counts: dict[str, int | None] = {}
        self._reached_at: float | None = None
        self._is_away_told = False
        self.standings = {job.name: Standing() for job in jobs}
        self.is_leader = False
        self.figures = Figures()

    def stop(self) -> None:
        """End soon; callable from a signal handler."""
        self._stopping.set()

    @property
    def is_stopping(self) -> bool:
        """Tell whether ``stop`` was called."""
        return self._stopping.is_set()

    @property
    def lags(self) -> dict[str, int | None]:
        """Each cluster's lag; empty while another controller leads."""
        return dict(self._lags) if self.is_leader else {}

    def run(self) -> None:
        """Lead, or wait for leadership, until stopped."""
        while not self._stopping.is_set():
            self.turn()
            self._stopping.wait(TURN_SECONDS)
        connection.close()

    def turn(self) -> None:
        """One round: every job that is due. A lost database is told once and tried again."""
        try:
            if connection.connection is None:
                self.is_leader = False
                limit_statements(STATEMENT_TIMEOUT_MS)
            self._lead()
            self._reached_at = self._reached_at or self._clock.now()
            self._is_away_told = False
            if self.is_leader:
                self._run_due()
            self._count()
        except DatabaseError as exc:
            if not self._is_away_told:
                is_away = isinstance(exc, OperationalError | InterfaceError)
                what = "is away" if is_away else "refused"
                logger.warning("controller: Postgres %s: %s", what, exc)
            self._is_away_told = True
            self._reached_at, self.is_leader = None, False
            connection.close()

    def _lead(self) -> None:
        with connection.cursor() as cursor:
            refuse_standby(cursor)
            if self.is_leader:
                return
            cursor.execute("SELECT pg_try_advisory_lock(%s)", [LEADER_LOCK])
            row = cursor.fetchone()
        self.is_leader = bool(row[0])
        if self.is_leader:
            logger.info("controller: leading")

    def _run_due(self) -> None:
        now = self._clock.now()
        turn = Turn(
            tell=self._tell,
            wall=self._clock.wall(),
            reached_seconds=now - (self._reached_at or now),
            upkeep=self._upkeep,
            lags=self._lags,
            counts=self._counts,
        )
        for job in self._jobs:
            standing = self.standings[job.name]
            if now < standing.due or (standing.thread and standing.thread.is_alive()):
                continue
            if job.is_long:
                name, given = f"job-{job.name}", (job, turn)
                thread = threading.Thread(target=self._long, args=given, name=name, daemon=True)
                standing.thread = thread
                thread.start()
            else:
                if not self._supervised(job, turn) and not _is_connected():
                    raise OperationalError(f"the connection broke in job {job.name}")

    def _long(self, job: Job, turn: Turn) -> None:
        try:
            self._supervised(job, turn)
        finally:
            close_own_connections()

    def _supervised(self, job: Job, turn: Turn) -> bool:
        """Run a job; whatever it raises is counted, told, and puts the job off a while longer."""
        standing = self.standings[job.name]
        try:
            if connection.connection is None:
                limit_statements(LONG_STATEMENT_TIMEOUT_MS)
            job.run(turn)
        except Exception as exc:
            standing.in_a_row += 1
            standing.failures += 1
            wait = min(MAX_BACKOFF_SECONDS, job.interval_seconds * 2.0**standing.in_a_row)
            standing.due = self._clock.now() + wait
            logger.warning(
                "controller: job %s failed %d times, again in %.0f s: %s",
                job.name, standing.in_a_row, wait, exc,
                exc_info=not isinstance(exc, DatabaseError),
            )  # fmt: skip
            return False
        standing.in_a_row = 0
        standing.due = self._clock.now() + job.interval_seconds
        return True

    def _count(self) -> None:
        rows = RunState.objects.values_list("state").annotate(count=Count("run"))
        self.figures = Figures(runs=dict(rows), default_rows=self._counts.get("default_rows"))


def _is_connected() -> bool:
    return connection.connection is not None and connection.is_usable()


class ControllerCollector(Collector):
    """Metrics of the controller (docs/metrics.md); what is not known gives no sample."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller

    def collect(self) -> Iterator[Metric]:
        """Render what the last turn saw."""
        yield from self._counted(self._controller.figures)
        lag = GaugeMetricFamily(
            "drakkar_control_group_lag",
            "Messages a cluster's group has not committed.",
            labels=["cluster"],
        )
        for cluster, value in self._controller.lags.items():
            if value is not None:
                lag.add_metric([cluster], value)
        yield lag
        failures = CounterMetricFamily(
            "drakkar_control_job_failures", "Failed runs of a job.", labels=["job"]
        )
        for name, standing in self._controller.standings.items():
            failures.add_metric([name], standing.failures)
        yield failures

    def _counted(self, figures: Figures) -> Iterator[Metric]:
        runs = GaugeMetricFamily("drakkar_control_workers", "Runs by state.", labels=["state"])
        if figures.runs is not None:
            for state in RunStateName.values:
                runs.add_metric([state], figures.runs.get(state, 0))
        yield runs
        rows = GaugeMetricFamily(
            "drakkar_control_default_partition_rows",
            "Events that have no day partition; more than 0 is an alarm.",
        )
        if figures.default_rows is not None:
            rows.add_metric([], figures.default_rows)
        yield rows
