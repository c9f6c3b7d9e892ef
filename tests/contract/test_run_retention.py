"""Runs go with their events on a real PostgreSQL; what they counted stays."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.utils import timezone

from recorder.models import Event, PrunedRuns, Run, RunState, RunTrack
from recorder.runs import uuid7
from tests.support.factories import make_events, make_run
from tests.support.upkeep import a_turn
from workers.control_plane import run_retention
from workers.control_plane.deployments import deployments
from workers.control_plane.jobs import prune_history
from workers.control_plane.pages.sinks import sink_rows
from workers.control_plane.queries import beats, dashboard
from workers.control_plane.run_retention import RunRetention, prune_runs
from workers.models import ControlRequest

pytestmark = pytest.mark.django_db(transaction=True)
RETENTION = RunRetention(days=7, changed_days=400)


@pytest.fixture
def now() -> datetime:
    return timezone.now()


def run_of(now: datetime, days: float, worker: str = "a", **values: Any) -> UUID:
    """The id of a run that ended so many days ago."""
    at = now - timedelta(days=days)
    run = make_run(
        id=uuid7(at.timestamp()), worker=worker, started_at=at,
        **{"beat__state": "stopped", "beat__beat_at": at, "beat__ended_at": at, **values},
    )  # fmt: skip
    return UUID(str(run.id))


def kept() -> set[UUID]:
    return set(Run.objects.values_list("id", flat=True))


def test_a_run_goes_when_its_end_is_past_the_days_and_its_events_are_gone(now: datetime) -> None:
    gone, told, young, last = (run_of(now, days) for days in (20, 19, 6, 1))
    make_events(1, run=told)
    never_beat = make_run(id=uuid4(), started_at=now - timedelta(days=20), beat=None).id
    living = run_of(now, 20, "b", beat__state="ready")
    run_of(now, 1, "b")
    RunTrack.objects.create(run_id=gone, written_at=now)
    before = kept()
    assert prune_runs(RETENTION, now) == 2
    assert before - kept() == {gone, never_beat}
    assert {told, young, last, living} <= kept()
    assert not RunState.objects.filter(run=gone).exists()
    Event.objects.all().delete()
    assert prune_runs(RETENTION, now) == 1
    assert told not in kept()


def test_the_latest_run_of_each_name_stays(now: datetime) -> None:
    run_of(now, 30)
    latest = {run_of(now, 20), run_of(now, 20, "b"), run_of(now, 20, "a", cluster="rank")}
    assert prune_runs(RETENTION, now) == 1
    assert kept() == latest
    assert {(beat.run.cluster, beat.run.worker) for beat in beats()} == {
        ("main", "a"), ("main", "b"), ("rank", "a"),
    }  # fmt: skip


def test_a_run_that_changed_something_stays_as_long_as_charts_tell_of_it(now: datetime) -> None:
    change = [{"key": "executor.slots", "old": "4", "new": "8"}]
    recent = run_of(now, 300, config_changes=change)
    run_of(now, 401, config_changes=change)
    run_of(now, 300, version_changes=[], config_changes=[])
    last = run_of(now, 1)
    assert prune_runs(RETENTION, now) == 2
    assert kept() == {recent, last}
    assert [each.runs for each in deployments("main")] == [[recent]]


def test_what_pruned_runs_counted_stays(now: datetime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_retention, "STEP_RUNS", 2)
    for number in range(5):
        sink = {"name": "results", "kind": "kafka", "delivered": 2, "latency_counts": [1, number]}
        figures = {"consumed": 3, "fates": {"delivered": 2}}
        run_of(now, 30 - number, beat__counters=figures, beat__sinks=[sink])
    run_of(now, 30, "b", beat__counters={"consumed": 1})
    run_of(now, 1, "b")

    def sums() -> Any:
        found = beats()
        fields = ("name", "delivered", "latency_counts", "retries")
        rows = [[row[name] for name in fields] for row in sink_rows(found)]
        return dashboard(found)["workers"], rows

    before = sums()
    assert prune_runs(RETENTION, now, steps=1) == 2
    assert sums() == before
    assert prune_runs(RETENTION, now) == 3
    assert sums() == before
    assert (before[0][0]["consumed"], before[1]) == (15, [["results", 10, (5, 10), None]])
    assert PrunedRuns.objects.count() == 2


def test_the_controller_prunes_them_and_what_was_asked_of_them_stays(now: datetime) -> None:
    gone = run_of(now, 20)
    run_of(now, 1)
    request = ControlRequest.objects.create(
        key="k", cluster="main", worker="a", action="drain", arguments={}, state="done",
        actor="mara", requested_at=now, run=gone,
    )  # fmt: skip
    prune_history(a_turn())
    assert gone not in kept()
    assert ControlRequest.objects.get(id=request.id).run == gone
