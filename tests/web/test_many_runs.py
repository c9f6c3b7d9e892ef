"""Sums stay cheap with ten thousand old runs."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from recorder.models import Run, RunState
from tests.web.conftest import MakeRun
from workers.control_plane.queries import beats, dashboard

pytestmark = pytest.mark.django_db
OLD_RUNS = 10_000


def old_runs(count: int) -> None:
    """That many stopped runs of two names, each of which consumed three messages."""
    now = timezone.now()
    runs = [
        Run(
            id=uuid4(),
            cluster="main",
            worker=f"worker-{number % 2}",
            host="node-a",
            pid=number,
            version="0.1.0",
            isolation="none",
            slots=4,
            config_hash="4f1c2a9be0d17733",
            started_at=now - timedelta(minutes=count - number, days=1),
        )
        for number in range(count)
    ]
    figures: dict[str, Any] = {
        "counters": {"consumed": 3, "fates": {"delivered": 2}},
        "sinks": [{"name": "results", "kind": "kafka", "delivered": 2}],
        "partitions": [{"topic": "t", "partition": n, "strip": [[4, True]] * 20} for n in range(9)],
    }
    states = [RunState(run=run, state="stopped", beat_at=run.started_at, **figures) for run in runs]
    Run.objects.bulk_create(runs, batch_size=2000)
    RunState.objects.bulk_create(states, batch_size=1000)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")


def warm_queries() -> int:
    """How many queries the beats take once all ended runs are counted."""
    beats()
    with CaptureQueriesContext(connection) as told:
        beats()
    return len(told)


def test_old_runs_are_summed_and_not_read(make_run: MakeRun) -> None:
    make_run("worker-0", counters={"consumed": 1, "fates": {"delivered": 1}})
    alone = warm_queries()
    old_runs(OLD_RUNS)
    assert warm_queries() == alone
    found = beats()
    assert [(beat.run.worker, beat.state) for beat in found] == [
        ("worker-1", "stopped"),
        ("worker-0", "ready"),
    ]
    sums = {each["name"]: each for each in dashboard(found)["workers"]}
    assert sums["worker-0"]["consumed"] == 3 * OLD_RUNS // 2 + 1
    assert sums["worker-0"]["fates"]["delivered"] == OLD_RUNS + 1
    assert sums["worker-1"]["consumed"] == 3 * OLD_RUNS // 2
    assert sums["worker-1"]["tasks_failed"] is None


def test_a_run_that_ends_is_counted_once(make_run: MakeRun) -> None:
    run = make_run(counters={"consumed": 5})
    make_run("worker-2", state="stopped", counters={"consumed": 1})

    def consumed() -> Any:
        return [each["consumed"] for each in dashboard(beats())["workers"]]

    assert consumed() == [5, 1]
    RunState.objects.filter(run=run).update(
        state="stopped", counters={"consumed": 6}, beat_at=timezone.now()
    )
    assert consumed() == [6, 1]
    make_run(counters={"consumed": 2})
    assert consumed() == [8, 1]
    RunState.objects.filter(run=make_run()).delete()  # described, and not yet beaten
    assert consumed() == [8, 1]


def test_earlier_runs_page_by_page(client: Client, user: User) -> None:
    client.force_login(user)
    old_runs(120)
    seen: list[str] = []
    query: Any = ""
    for _ in range(4):
        answer = client.get(f"/workers?before={query}")
        seen += [str(row["run"].id) for row in answer.context["earlier"]]
        query = answer.context["next"]
        if query is None:
            break
        query = query.replace("+", "%2B")
    assert len(seen) == len(set(seen)) == 118
    assert answer.context["earlier_count"] == 118
