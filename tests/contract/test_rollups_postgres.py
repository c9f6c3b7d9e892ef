"""Rollups on a real PostgreSQL: equal to the events they were made of, and what charts read."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.db import DatabaseError, connection

from domain.events import (
    Consumed,
    Event,
    MessageCompleted,
    TaskCompleted,
    TaskFailed,
    TaskStarted,
)
from integration.verdict.rollups import rolled, spans, unequal
from recorder import models, writer
from recorder.config import RecorderConfig, SampleConfig
from recorder.projections import in_turn
from recorder.recorder import Recorder
from recorder.rollups.gauges import Gauges
from recorder.rollups.label_values import chosen_values
from recorder.rollups.projection import project_rollups
from recorder.rollups.reading import Dimension, Measure, Scope, series, step_for, totals
from recorder.rollups.retention import RollupRetention, aged_rollups, prune_rollups
from recorder.rollups.sums import Sums, Tally
from recorder.rows import to_row
from recorder.runs import RunDescription
from recorder.shedding import ShedAccount
from tests.contract.test_recorder_postgres import description

pytestmark = pytest.mark.django_db(transaction=True)
NOW = 1_790_000_040.0
"""At the begin of a minute."""
WAIT_SECONDS = 15.0
CONFIG = RecorderConfig(rollup_labels=("tenant",))


def ended(
    offset: int,
    at: float = NOW,
    *,
    duration_ms: float = 100.0,
    failure: str = "",
    tenant: str = "a",
) -> Event:
    told: dict[str, Any] = {
        "at": at, "topic": "t", "partition": 1, "offset": offset, "task_id": f"1:{offset}:0",
        "slot": 0, "attempt": 1, "exit_code": 0, "pid": 1, "duration_ms": duration_ms,
        "queue_ms": 10.0, "labels": {"tenant": tenant}, "args": (), "stdout": None, "stderr": None,
        "stdout_size": 1_000, "stderr_size": None, "started_at": at, "user_cpu_seconds": 0.25,
        "system_cpu_seconds": None, "max_rss_bytes": 1 << 20,
    }  # fmt: skip
    if failure:
        return TaskFailed(**told, failure=failure, detail="")
    return TaskCompleted(**told)


def fate(offset: int, at: float = NOW, fate: str = "delivered") -> Event:
    return MessageCompleted(
        at=at, topic="t", partition=1, offset=offset, fate=fate, duration_ms=150.0, reason=""
    )


def stored(events: Iterable[Event], run: RunDescription | None = None, seq: int = 0) -> int:
    run = run or description(NOW)
    tally = Tally(CONFIG.rollup_labels)
    rows = []
    for number, event in enumerate(events, seq + 1):
        rows.append({**to_row(event, number, CONFIG), "tally": tally.observe_all([event])})
    writer.ensure_run(run)
    return writer.flush(run, rows, seq, project_rollups)


def at(seconds: float) -> datetime:
    return datetime.fromtimestamp(NOW + seconds, UTC)


def values(measure: Measure, seconds: int = 300, scope: Scope = Scope(), **given: Any) -> Any:  # noqa: B008
    found = series(scope, measure, at(0), at(seconds), given.pop("step", 60), **given)
    return {line.value: line.values for line in found.lines}


def test_a_series_counts_what_happened_in_each_minute() -> None:
    stored([ended(1), ended(2, NOW + 61, failure="exit"), fate(1), fate(2, NOW + 61, "skipped")])
    assert values(Measure.TASKS) == {"": (1.0, 1.0, 0.0, 0.0, 0.0)}
    assert values(Measure.FAILURES) == {"": (0.0, 1.0, 0.0, 0.0, 0.0)}
    assert values(Measure.MESSAGES, by="outcome") == {
        "delivered": (1.0, 0.0, 0.0, 0.0, 0.0),
        "skipped": (0.0, 1.0, 0.0, 0.0, 0.0),
    }
    assert values(Measure.DURATION_MS) == {"": (100.0, 100.0, None, None, None)}
    assert values(Measure.CPU_SECONDS) == {"": (0.25, 0.25, None, None, None)}


def test_a_batch_told_twice_counts_once() -> None:
    run = description(NOW)
    for _ in range(2):
        assert stored([ended(1), ended(2)], run) == 2
    assert values(Measure.TASKS)[""][0] == 2.0


def test_a_cluster_counts_the_values_that_it_stored_first() -> None:
    of_a = [ended(n, tenant=f"t{n:02}") for n in range(15)]
    stored(of_a, description(NOW))
    chosen = chosen_values("main", ("tenant", "tier"), NOW)
    assert chosen == {"tenant": [f"t{n:02}" for n in range(15)], "tier": []}
    of_b = [ended(n, tenant=f"s{n:02}") for n in range(15)]
    stored(of_b, replace(description(NOW + 1), worker="worker-2"))
    agreed = chosen_values("main", ("tenant",), NOW)["tenant"]
    assert agreed == [*(f"t{n:02}" for n in range(15)), *(f"s{n:02}" for n in range(5))]
    assert chosen_values("other", ("tenant",), NOW) == {"tenant": []}
    assert chosen_values("main", ("tenant",), NOW + 2 * 86_400) == {"tenant": []}


def test_a_run_counts_by_the_values_of_its_cluster(tmp_path: Path) -> None:
    stored([ended(n, tenant=f"t{n:02}") for n in range(20)], description(time.time()))
    run = replace(description(time.time() + 1), worker="worker-2")
    config = CONFIG.model_copy(update={"spool_dir": tmp_path})
    recorder = Recorder(run, config, wall=lambda: NOW, project=project_rollups)
    recorder.start()
    assert recorder.wait_for(lambda figures: figures.is_connected, WAIT_SECONDS)
    recorder.tell(ended(1, tenant="new"))
    recorder.tell(ended(2, tenant="t19"))
    assert recorder.close(WAIT_SECONDS)
    of_run = models.Rollup.objects.filter(run=run.id, subject="label")
    assert sorted(of_run.values_list("value", flat=True)) == ["other", "t19"]


def test_labels_part_tasks_and_the_rest_is_other() -> None:
    stored(ended(n, tenant=f"t{n:02}", failure="exit" if n == 3 else "") for n in range(25))
    found = {each.value: each.count for each in totals(Scope(), at(0), at(60), "label:tenant")}
    assert len(found) == 21
    assert found["other"] == 5
    assert totals(Scope(), at(0), at(60), "label:tenant")[0].value == "t03"
    scope = Scope(label=("tenant", "t03"))
    assert values(Measure.FAILURES, 60, scope) == {"": (1.0,)}
    assert values(Measure.LATENCY_MS, 60, scope) == {}
    with pytest.raises(ValueError, match="by: expected one of cluster"):
        totals(Scope(), at(0), at(60), "tenant")


def test_hours_and_days_are_whole_with_the_events() -> None:
    stored(ended(n, NOW + 1_800 * n) for n in range(96))
    day = NOW // 86_400 * 86_400
    begin = datetime.fromtimestamp(day, UTC)
    hours = series(Scope(), Measure.TASKS, begin, begin + timedelta(days=4))
    assert hours.step_seconds == 3_600
    assert sum(v or 0 for v in hours.lines[0].values) == 96
    days = series(Scope(), Measure.TASKS, begin, begin + timedelta(days=90), 86_400)
    assert sum(v or 0 for v in days.lines[0].values) == 96
    assert totals(Scope(), begin, begin + timedelta(days=90), Dimension.HOST)[0].count == 96


def test_the_recorder_counts_each_event_that_it_stores(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"flush_interval_ms": 20, "spool_dir": tmp_path})
    recorder = Recorder(description(time.time()), config, project=project_rollups)
    recorder.start()
    for offset in range(50):
        now = time.time()
        recorder.tell(
            Consumed(at=now, topic="t", partition=1, offset=offset, timestamp=0, size_bytes=7)
        )
        recorder.tell(ended(offset, now))
        recorder.tell(fate(offset, now))
    assert recorder.close(WAIT_SECONDS)
    since, until = datetime.now(UTC) - timedelta(minutes=5), datetime.now(UTC)
    until += timedelta(minutes=1)
    for measure in (Measure.INPUT, Measure.TASKS, Measure.MESSAGES):
        line = series(Scope(cluster="main"), measure, since, until).lines[0]
        assert sum(value or 0 for value in line.values) == 50


def test_a_step_gives_a_chart_at_most_three_hundred_points() -> None:
    steps = [step_for(at(0), at(days * 86_400)) for days in (0.01, 1, 2, 7, 30, 90, 400)]
    assert steps == [60, 300, 3_600, 3_600, 14_400, 28_800, 172_800]


def counted(measure: Measure, **given: Any) -> dict[str, float]:
    since, until = datetime.now(UTC) - timedelta(minutes=5), datetime.now(UTC)
    found = series(Scope(), measure, since, until + timedelta(minutes=1), **given)
    return {line.value: line.total for line in found.lines}


def recorded(tmp_path: Path, events: Sequence[Event], **config: Any) -> Recorder:
    options = {"flush_interval_ms": 20, "spool_dir": tmp_path, **config}
    recorder = Recorder(
        description(time.time()), CONFIG.model_copy(update=options), project=project_rollups
    )
    for event in events:
        recorder.tell(event)
    recorder.start()
    assert recorder.close(WAIT_SECONDS)
    return recorder


def begun(end: Event) -> TaskStarted:
    assert isinstance(end, TaskCompleted | TaskFailed)
    return TaskStarted(
        at=end.at, topic="t", partition=1, offset=end.offset, task_id=end.task_id, slot=0,
        attempt=1, queue_ms=0.0, labels=end.labels, args=(), source_offsets=[end.offset],
    )  # fmt: skip


def test_fast_successes_that_are_not_stored_count(tmp_path: Path) -> None:
    ends = [ended(n, time.time(), duration_ms=1.0) for n in range(10)]
    recorded(
        tmp_path, [each for end in ends for each in (begun(end), end)], event_min_duration_ms=50.0
    )
    assert not models.Event.objects.filter(kind="task_completed").exists()
    assert counted(Measure.TASKS) == {"": 10.0}
    assert counted(Measure.TASKS, by="label:tenant") == {"a": 10.0}


def test_messages_that_are_not_sampled_count(tmp_path: Path) -> None:
    now = time.time()
    told = [each for n in range(200) for each in (ended(n, now), fate(n, now))]
    recorded(tmp_path, told, sample=SampleConfig(one_in=1_000_000, slow_ms=30_000))
    left_out = models.Event.objects.get(kind="sampled").data or {}
    assert left_out["messages"] == 200
    assert counted(Measure.TASKS) == counted(Measure.MESSAGES) == {"": 200.0}


def test_events_passed_over_where_too_many_wait_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recorder.recorder.MAX_TOLD_EVENTS", 20)
    now = time.time()
    recorder = recorded(tmp_path, [ended(n, now) for n in range(50)])
    assert recorder.figures().shed == 40
    assert counted(Measure.TASKS) == {"": 50.0}
    assert counted(Measure.CPU_SECONDS) == {"": 12.5}


def test_an_event_that_postgres_refuses_counts(tmp_path: Path) -> None:
    now = time.time()
    bad = ended(2, now)
    assert isinstance(bad, TaskCompleted)
    recorder = Recorder(
        description(now),
        CONFIG.model_copy(update={"flush_interval_ms": 20, "spool_dir": tmp_path}),
        project=project_rollups,
    )
    recorder.start()
    for event in (ended(1, now), replace(bad, slot=2**40), ended(3, now)):
        recorder.tell(event)
    assert recorder.wait_for(lambda now: now.recorded_seq >= 4, WAIT_SECONDS)
    assert recorder.close(WAIT_SECONDS)
    assert models.Event.objects.filter(kind="task_completed").count() == 2
    assert counted(Measure.TASKS) == {"": 3.0}


def test_what_is_refused_of_a_dead_runs_spool_counts_for_that_run() -> None:
    ended_run, heir = description(NOW), description(NOW + 1)
    writer.ensure_run(ended_run)
    account = ShedAccount()
    row = {"kind": "task_completed", "seq": 1, "tally": Tally().observe_all([ended(1)])}
    account.add([row])
    told = account.settle(NOW)
    assert told is not None
    stored([replace(told, of_run=str(ended_run.id)), ended(2)], heir)
    of_runs = models.Rollup.objects.filter(step=60, subject="task").values_list("run", "count")
    assert set(of_runs) == {(ended_run.id, 1), (heir.id, 1)}


def test_sums_that_wait_are_bounded_by_joining_minutes() -> None:
    sums = Sums()
    sums.add_events((ended(n, NOW + 60 * n) for n in range(5_000)), Tally())
    carried = sums.carried()
    assert len(carried) < 100
    again = Sums()
    again.merge(carried)
    assert sum(cell.count for cell in again.cells.values()) == 5_000


def test_gauges_are_kept_by_the_minute_and_written_again_they_stay() -> None:
    run, gauges = description(NOW), Gauges()
    writer.ensure_run(run)
    for second, lag in ((0, 10.0), (2, 30.0), (60, 5.0), (62, None)):
        gauges.note(NOW + second, {"lag": lag})
    gauges.write(run, 1.0, NOW)
    gauges.write(run, 100.0, NOW)
    assert values(Measure.LAG, 180) == {"": (20.0, 5.0, None)}
    line = series(Scope(worker="w"), Measure.LAG, at(0), at(180), 60).lines[0]
    assert (line.least, line.most) == ((10.0, 5.0, None), (30.0, 5.0, None))
    hours = series(Scope(), Measure.LAG, at(0) - timedelta(days=2), at(180)).lines[0]
    assert [each for each in hours.values if each is not None] == [15.0]


def test_gauges_noted_while_a_write_fails_are_written_later(monkeypatch: Any) -> None:
    run, gauges = description(NOW), Gauges()
    writer.ensure_run(run)
    gauges.note(NOW, {"lag": 1.0})
    with monkeypatch.context() as patched:
        patched.setattr(models.Gauge.objects, "bulk_create", raising(DatabaseError("away")))
        with pytest.raises(DatabaseError):
            gauges.write(run, 1.0, NOW)
    gauges.note(NOW + 1, {"lag": 3.0})
    gauges.write(run, 1.0, NOW)
    assert values(Measure.LAG, 60) == {"": (2.0,)}


def raising(error: Exception) -> Callable[..., None]:
    def refuse(*_args: Any, **_given: Any) -> None:
        raise error

    return refuse


def test_minutes_go_before_hours_and_a_chart_of_the_time_stays() -> None:
    stored([ended(1)])
    gauges = Gauges()
    gauges.note(NOW, {"lag": 1.0})
    gauges.write(description(NOW), 1.0, NOW)
    kept, later = RollupRetention(minute_days=7, hour_days=400), at(8 * 86_400)
    assert aged_rollups(kept, later) == 3
    assert prune_rollups(kept, later) == 3
    assert prune_rollups(kept, later) == 0
    found = series(Scope(), Measure.TASKS, at(0), at(3 * 86_400))
    assert sum(value or 0 for value in found.lines[0].values) == 1
    assert prune_rollups(kept, at(401 * 86_400)) == 6


def test_the_verdict_finds_rollups_equal_to_the_events_and_says_where_they_are_not(
    tmp_path: Path,
) -> None:
    """Through a recorder: events folded into rows of messages and such that stand alone."""
    now = time.time()
    told: list[Event] = []
    for offset in range(40):
        told += [
            Consumed(at=now, topic="t", partition=1, offset=offset, timestamp=0, size_bytes=7),
            begun(ended(offset, now)),
            ended(offset, now + offset, duration_ms=offset * 7.123, failure="exit" * (offset % 2)),
            fate(offset, now + offset),
        ]
    recorded(tmp_path, told)
    with psycopg.connect(verdict_address()) as database:
        found, by_span = rolled(database, "main"), spans(database, "main")
        assert sum(each.rolled for each in found) == 120
        assert {each.kind for each in found} >= {"task_completed", "task_failed", "consumed"}
        assert list(unequal(found, by_span)) == []
        models.Rollup.objects.filter(step=60, subject="message").update(count=1, duration_us=0)
        wrong = list(unequal(rolled(database, "main"), spans(database, "main")))
    assert any("events, 1 in the rollup" in each for each in wrong)
    assert any(each.startswith("message: by minutes, hours and days") for each in wrong)


def verdict_address() -> str:
    """Address of the test's database."""
    asked = connection.get_connection_params()
    names = ("host", "port", "user", "password", "dbname")
    return psycopg.conninfo.make_conninfo(**{n: asked[n] for n in names if asked.get(n)})


def test_a_kill_before_the_commit_counts_nothing_and_the_next_one_counts_once() -> None:
    run = description(NOW)
    tally = Tally()
    row = {**to_row(ended(1), 1, CONFIG), "tally": tally.observe_all([ended(1)])}
    writer.ensure_run(run)

    def killed(_run: RunDescription, _rows: object) -> None:
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        writer.flush(run, [row], 0, in_turn(project_rollups, killed))
    assert not models.Rollup.objects.exists()
    for _ in range(2):
        assert writer.flush(run, [row], 0, project_rollups) == 1
    counts = models.Rollup.objects.filter(subject="task").values_list("step", "count")
    assert sorted(counts) == [(60, 1), (3_600, 1), (86_400, 1)]
