"""Periodic jobs of a handler: supervised, per worker or by who leads the cluster."""

from __future__ import annotations

import asyncio

import pytest
from django.db import DatabaseError

from domain.events import PeriodicRun
from domain.period import MOST_WAIT_SECONDS, Period, periods
from tests.support.pipeline import Heard, ShellHandler, new_cluster, running
from workers.clock import Clock
from workers.handler import periodic
from workers.pipeline.hooks import Hooks
from workers.runtime.periodic import PeriodicJobs


class Leader:
    """Leads as it is told; an exception is raised."""

    def __init__(self, *answers: bool | Exception) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    def leads(self, name: str) -> bool:
        self.asked.append(name)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


async def runs(handler: object, leader: Leader, count: int) -> list[PeriodicRun]:
    heard, clock = Heard(), Clock()
    hooks = Hooks(clock=clock, tell=heard, timeout_seconds=None)
    job = asyncio.create_task(PeriodicJobs(handler, hooks, clock, heard, leader).run())
    await heard.until(lambda: len(heard.of("periodic_run")) >= count or job.done())
    job.cancel()
    await asyncio.wait([job])
    found: list[PeriodicRun] = heard.of("periodic_run")
    return found


class Jobs:
    """Three kinds of jobs."""

    @periodic(seconds=0.01)
    async def count(self) -> None:
        """Runs on every worker."""


class Broken:
    """A job that always raises."""

    @periodic(seconds=0.01)
    def fail(self) -> None:
        raise RuntimeError("no")


class Once:
    """A job that must not go on after an error."""

    @periodic(seconds=0.01, on_error="stop")
    def fail(self) -> None:
        raise RuntimeError("no")


class OfTheCluster:
    """A job for one worker of the cluster."""

    @periodic(seconds=0.01, per="cluster")
    async def sweep(self) -> None:
        """Runs on one worker."""


def test_periods_are_found_also_on_a_base_class() -> None:
    class Derived(Jobs):
        """Inherits the job."""

    assert periods(Derived()) == {
        "count": Period(seconds=0.01, per="worker", on_error="continue"),
    }


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"seconds": 0}, "seconds: expected more than 0, got 0"),
        ({"seconds": 1, "per": "fleet"}, "per: expected worker or cluster, got 'fleet'"),
        ({"seconds": 1, "on_error": "x"}, "on_error: expected continue or stop, got 'x'"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        periodic(**arguments)  # type: ignore[arg-type]


def test_the_wait_doubles_with_failures_up_to_five_minutes() -> None:
    period = Period(seconds=10, per="worker", on_error="continue")
    assert [period.wait_seconds(n) for n in (0, 1, 2, 9)] == [10, 20, 40, MOST_WAIT_SECONDS]
    hourly = Period(seconds=3600, per="worker", on_error="continue")
    assert hourly.wait_seconds(3) == 3600


def test_a_job_runs_again_and_again_without_asking_who_leads() -> None:
    leader = Leader(False)
    found = asyncio.run(runs(Jobs(), leader, 3))
    assert {(run.name, run.status) for run in found} == {("count", "ok")}
    assert leader.asked == []


def test_a_job_that_raises_is_told_and_goes_on() -> None:
    found = asyncio.run(runs(Broken(), Leader(False), 2))
    assert [run.status for run in found] == ["failed", "failed"]
    assert found[0].detail == "fail raised RuntimeError: no"


def test_a_job_that_must_stop_on_errors_ends() -> None:
    async def scenario() -> list[PeriodicRun]:
        async with asyncio.timeout(5):
            return await runs(Once(), Leader(False), 2)

    with pytest.raises(TimeoutError):
        asyncio.run(scenario())


def test_who_does_not_lead_does_not_run_and_without_postgres_it_says_so() -> None:
    leader = Leader(False, DatabaseError("connection refused"), False, True)
    found = asyncio.run(runs(OfTheCluster(), leader, 2))
    assert [run.status for run in found[:2]] == ["no_lock", "ok"]
    assert found[0].detail == "did not run, Postgres is away: connection refused"
    assert leader.asked[:4] == ["sweep"] * 4


def test_a_worker_runs_its_handlers_jobs_and_counts_them() -> None:
    class Ticking(ShellHandler):
        @periodic(seconds=0.05)
        async def tick(self) -> None:
            """Nothing to do."""

    async def scenario() -> None:
        async with running(new_cluster(), handler=Ticking({})) as live:
            await live.heard.until(lambda: len(live.heard.of("periodic_run")) >= 2)
            assert live.worker.counters.periodic["tick", "ok"] >= 2
            assert await live.stop() == 0

    asyncio.run(scenario())
