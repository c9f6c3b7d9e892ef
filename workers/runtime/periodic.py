"""Periodic jobs of a handler: ``@periodic(seconds=30)`` on a method.

They are supervised: what raises is told and runs again after a longer wait, and never ends the
worker.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from django.db import DatabaseError, connection

from domain.events import PeriodicRun, Tell
from domain.period import Period, periods
from recorder.writer import limit_statements, refuse_standby
from workers.clock import Clock
from workers.pipeline.hooks import HookFailed, Hooks

STATEMENT_TIMEOUT_MS = 2000


class Leadership(Protocol):
    """Choice of the worker that runs the jobs of the whole cluster."""

    def leads(self, name: str) -> bool:
        """Tell whether this worker is to run a job now. Raises DatabaseError. Own thread."""


class AdvisoryLocks:
    """Leadership by Postgres: a lock a (cluster, name), held as long as the connection lives.

    Called on one thread, whose connection is its own.
    """

    def __init__(self, cluster: str) -> None:
        self._cluster = cluster
        self._held: set[str] = set()

    def leads(self, name: str) -> bool:
        """Try the lock of the job, which its holder keeps. Raises DatabaseError."""
        try:
            if connection.connection is None:
                self._held.clear()
                limit_statements(STATEMENT_TIMEOUT_MS)
            return self._ask(name)
        except DatabaseError:
            self.close()
            raise

    def _ask(self, name: str) -> bool:
        with connection.cursor() as cursor:
            refuse_standby(cursor)
            if name in self._held:
                return True
            cursor.execute(
                "SELECT pg_try_advisory_lock(hashtextextended(%s, 0))",
                [f"drakkar periodic {self._cluster} {name}"],
            )
            is_ours = bool(cursor.fetchone()[0])
        if is_ours:
            self._held.add(name)
        return is_ours

    def close(self) -> None:
        """Give all locks up."""
        self._held.clear()
        connection.close()


class PeriodicJobs:
    """Periodic jobs of one worker; ``run`` ends when it is cancelled."""

    def __init__(
        self, handler: object, hooks: Hooks, clock: Clock, tell: Tell, leadership: Leadership
    ) -> None:
        self._handler = handler
        self._hooks = hooks
        self._clock = clock
        self._tell = tell
        self._leadership = leadership

    async def run(self) -> None:
        """Run every job on its period until cancelled."""
        found = periods(self._handler)
        if not found:
            return
        thread = ThreadPoolExecutor(1, thread_name_prefix="periodic")
        try:
            async with asyncio.TaskGroup() as group:
                for name, period in found.items():
                    group.create_task(self._repeat(name, period, thread))
        finally:
            thread.submit(connection.close)
            thread.shutdown(wait=False)

    async def _repeat(self, name: str, period: Period, thread: ThreadPoolExecutor) -> None:
        failures = 0
        while True:
            await asyncio.sleep(period.wait_seconds(failures))
            if period.per == "cluster" and not await self._leads(name, thread):
                continue
            began = self._clock.now()
            try:
                await self._hooks.call(getattr(self._handler, name))
            except HookFailed as failed:
                failures += 1
                self._told(name, "failed", began, failed.detail, failed.trace)
                if period.on_error == "stop":
                    return
            else:
                failures = 0
                self._told(name, "ok", began, "")

    async def _leads(self, name: str, thread: ThreadPoolExecutor) -> bool:
        began = self._clock.now()
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(thread, self._leadership.leads, name)
        except DatabaseError as exc:
            self._told(name, "no_lock", began, f"did not run, Postgres is away: {exc}")
            return False

    def _told(self, name: str, status: str, began: float, detail: str, traceback: str = "") -> None:
        self._tell(
            PeriodicRun(
                at=self._clock.wall(),
                name=name,
                status=status,
                duration_ms=(self._clock.now() - began) * 1000.0,
                detail=detail,
                traceback=traceback,
            )
        )
