"""Exports from a real PostgreSQL: nothing lost, nothing doubled, in constant memory."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
import tracemalloc
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.db.models import Count

from recorder.export import ExportTooLarge, Selection, Summary, export
from recorder.models import Event, Run
from tests.support.factories import Story, at, make_events, make_run

pytestmark = pytest.mark.django_db
MANY_ROWS = 60_000
MAX_EXPORT_BYTES_OF_MEMORY = 24 * 1024 * 1024


def told(worker: str, **values: Any) -> Run:
    """A run with a message, a failed and a good attempt, all recorded."""
    story = Story(make_run(worker=worker, **values))
    story.consumed(0, 7)
    story.arranged(0.1, 7, ["3:7:0"], "acme")
    story.ran(0.3, "3:7:0", 1, failure="exit", exit_code=2, stdout=b"=1+1")
    story.ran(2, "3:7:0", 1, attempt=2)
    story.delivered(3.2, "3:7:0", "results")
    story.fate(3.4, 7)
    Run.objects.filter(id=story.run.id).update(recorded_seq=9)
    return story.run


def in_database(**filters: Any) -> dict[str, int]:
    rows = Event.objects.filter(**filters).values_list("kind").annotate(count=Count("id"))
    return dict(rows)


def in_sqlite(path: Path, sql: str) -> list[Any]:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as opened:
        return opened.execute(sql).fetchall()


KINDS_SQL = "SELECT kind, count(*) FROM events GROUP BY kind"


def test_runs_that_ended_before_the_time_are_left_out(tmp_path: Path) -> None:
    told("worker-1", beat__state="stopped", beat__ended_at=at(10))
    lasting = told("worker-2")
    make_events(1, run=lasting.id, seq=10, ts=at(90_000))
    Run.objects.filter(id=lasting.id).update(recorded_seq=10)
    summary = export(Selection(since=at(80_000)), tmp_path / "x.jsonl", "jsonl")
    assert (summary.runs, summary.events) == (1, 1)


def test_two_runs_merge_without_a_lost_or_doubled_event(tmp_path: Path) -> None:
    first, second = told("worker-1"), told("worker-2", cluster="fast")
    summary = export(Selection(), tmp_path / "x.sqlite", "sqlite")
    assert dict(in_sqlite(tmp_path / "x.sqlite", KINDS_SQL)) == in_database() == summary.by_kind
    keys = in_sqlite(tmp_path / "x.sqlite", "SELECT run, seq FROM events")
    assert sorted(keys) == sorted((str(r.id), seq) for r in (first, second) for seq in range(1, 10))
    assert (summary.runs, summary.events) == (2, 18)


def test_the_sqlite_file_opens_by_itself(tmp_path: Path) -> None:
    told("worker-1")
    export(Selection(), tmp_path / "x.sqlite", "sqlite")
    tasks = in_sqlite(
        tmp_path / "x.sqlite",
        "SELECT cluster, worker, task_id, attempt, outcome, exit_code, stdout FROM tasks",
    )
    assert tasks == [
        ("main", "worker-1", "3:7:0", 1, "failed", 2, b"=1+1"),
        ("main", "worker-1", "3:7:0", 2, "completed", 0, b"found\xff"),
    ]
    traces = in_sqlite(tmp_path / "x.sqlite", 'SELECT kind FROM traces WHERE "offset" = 7')
    assert next(kind for (kind,) in traces) == "consumed"
    assert len(traces) == 9
    (args,) = in_sqlite(tmp_path / "x.sqlite", "SELECT DISTINCT args FROM tasks")[0]
    assert json.loads(args) == ["--token", "***", "needle"]
    ((check,),) = in_sqlite(tmp_path / "x.sqlite", "PRAGMA integrity_check")
    assert check == "ok"
    assert list(tmp_path.iterdir()) == [tmp_path / "x.sqlite"]


def test_json_lines_and_csv_hold_the_same_events(tmp_path: Path) -> None:
    told("worker-1")
    export(Selection(), tmp_path / "x.jsonl", "jsonl")
    export(Selection(), tmp_path / "x.csv", "csv")
    lines = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()]
    with (tmp_path / "x.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [line["seq"] for line in lines] == [int(row["seq"]) for row in table]
    assert Counter(line["kind"] for line in lines) == in_database()
    failed, completed = (n for n, line in enumerate(lines) if "stdout" in line)
    assert (lines[failed]["stdout"], table[failed]["stdout"]) == ("=1+1", "'=1+1")
    assert lines[completed]["stdout"] == {"$bytes": "Zm91bmT/"}
    assert table[completed]["stdout"] == "base64:Zm91bmT/"
    assert {line["worker"] for line in lines} == {"worker-1"}
    assert {line["stderr"] for line in lines if "stderr" in line} == {""}
    assert json.loads(table[completed]["labels"]) == {"who": "mara"}


@pytest.mark.parametrize(
    ("selection", "filters"),
    [
        ({"kinds": ["task_failed"]}, {"kind": "task_failed"}),
        ({"since": at(1)}, {"ts__gte": at(1)}),
        ({"until": at(1)}, {"ts__lt": at(1)}),
        ({"cluster": "main"}, {}),
    ],
)
def test_an_export_holds_the_events_that_match(
    tmp_path: Path, selection: dict[str, Any], filters: dict[str, Any]
) -> None:
    mine, _ = told("worker-1"), told("worker-1", cluster="fast")
    summary = export(Selection(**{"runs": [mine.id], **selection}), tmp_path / "x", "jsonl")
    assert summary.by_kind == in_database(run=mine.id, **filters)


def test_what_is_recorded_during_an_export_is_left_for_the_next(tmp_path: Path) -> None:
    run = told("worker-1")
    make_events(1, run=run.id, seq=10)
    assert export(Selection(), tmp_path / "x", "csv").events == 9
    Run.objects.update(recorded_seq=10)

    def meanwhile(done: int, total: int) -> None:
        Run.objects.update(recorded_seq=11)
        make_events(1, run=run.id, seq=11)

    assert export(Selection(), tmp_path / "x", "csv", progress=meanwhile).events == 10


def test_a_file_past_its_bound_is_given_up(tmp_path: Path) -> None:
    told("worker-1")
    with pytest.raises(ExportTooLarge):
        export(Selection(), tmp_path / "x.jsonl", "jsonl", max_bytes=100)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def many(db: None) -> Run:
    """A run of 60,000 rows, one in 60 with 64 KiB of output."""
    run = make_run(recorded_seq=MANY_ROWS)
    with connection.cursor() as cursor:
        cursor.execute(
            'INSERT INTO recorder_event (ts, run, seq, kind, topic, partition, "offset", args, '
            "stdout, data) SELECT now(), %s, n, 'consumed', 't', 0, n, '[\"a\"]', "
            "CASE WHEN n %% 60 = 0 THEN convert_to(repeat('x', 65536), 'UTF8') END, "
            "'{\"size_bytes\": 1}' FROM generate_series(1, %s) n",
            [run.id, MANY_ROWS],
        )
    return run


@pytest.mark.slow
@pytest.mark.parametrize("format_name", ["sqlite", "jsonl"])
def test_memory_is_constant_over_many_rows(many: Run, tmp_path: Path, format_name: str) -> None:
    seen: list[tuple[int, int]] = []
    tracemalloc.start()
    try:
        summary = export(
            Selection(runs=[many.id]),
            tmp_path / "x",
            format_name,
            progress=lambda done, total: seen.append((done, total)),
        )
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert summary.events == MANY_ROWS
    assert summary.size_bytes > 60 * 1024 * 1024
    assert peak < MAX_EXPORT_BYTES_OF_MEMORY
    assert seen == sorted(seen)
    assert seen[-1] == (MANY_ROWS, MANY_ROWS)


def run_command(*args: str) -> Summary:
    out = io.StringIO()
    call_command("export_recorder", *args, "--json", stdout=out)
    return Summary(**json.loads(out.getvalue()))


def test_the_command_exports_the_chosen_run(tmp_path: Path) -> None:
    run = told("worker-1")
    path = str(tmp_path / "x.sqlite")
    chosen = ["--run", str(run.id), "--kind", "consumed", "arranged"]
    summary = run_command("--format", "sqlite", "-o", path, *chosen)
    assert summary.by_kind == {"arranged": 1, "consumed": 1}
    with pytest.raises(CommandError, match="no run fits"):
        run_command("--format", "csv", "-o", path, "--cluster", "nowhere")


@pytest.mark.parametrize(
    "bad",
    [["--run", "x"], ["--since", "soon"], ["--kind", "x"], ["--format", "xml"], ["-o", "/a/b/c"]],
)
def test_the_command_refuses_bad_arguments(tmp_path: Path, bad: list[str]) -> None:
    with pytest.raises(CommandError) as caught:
        run_command("--format", "csv", "-o", str(tmp_path / "x"), *bad)
    assert caught.value.returncode != 0


class Woken(Exception):
    """A writer that was stopped for a minute finds that it lost its job."""


@pytest.mark.parametrize("format_name", ["jsonl", "csv", "sqlite"])
def test_who_lost_a_job_to_another_writer_takes_only_its_own_file_away(
    format_name: str, tmp_path: Path
) -> None:
    make_events(600, run=make_run(recorded_seq=10**6).id)
    path, alone = tmp_path / "x", tmp_path / "alone"
    woken = 0

    def lose(done: int, total: int) -> None:
        raise Woken

    def taken_over(done: int, total: int) -> None:
        nonlocal woken
        with pytest.raises(Woken):
            export(Selection(), path, format_name, progress=lose)
        woken += 1

    export(Selection(), path, format_name, progress=taken_over)
    export(Selection(), alone, format_name)
    assert woken > 1
    assert path.read_bytes() == alone.read_bytes()
    assert sorted(tmp_path.iterdir()) == [alone, path]
