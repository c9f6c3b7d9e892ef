"""Trends: what pages and API say of rollups, with what befell the fleet."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

from recorder.models import Event, Gauge, Rollup, Run
from recorder.rollups.projection import source_of
from recorder.rollups.sums import MINUTE
from tests.web.conftest import MakeRun
from workers.control_plane.trends.charts import CHARTS

pytestmark = pytest.mark.django_db
NOW = datetime(2026, 3, 14, 3, 10, 42, tzinfo=UTC)
FIRST = datetime(2026, 3, 14, 3, 0, tzinfo=UTC)
SPAN = "since=2026-03-14T03:00&until=2026-03-14T03:05"
UNTOLD: dict[str, Any] = {
    "outcome": "", "failure": "", "sink": "", "label": "", "value": "", "count": 60,
    "duration_us": 0, "wait_us": 0, "output_bytes": 0, "durations": [], "waits": [],
}  # fmt: skip


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is ten past three."""
    monkeypatch.setattr("django.utils.timezone.now", lambda: NOW)


@pytest.fixture
def reader(client: Client, user: User) -> Client:
    """Signed in, with no more rights than to read."""
    client.force_login(user)
    return client


def counted(run: Run, minute: int, subject: str, **told: Any) -> None:
    """A minute's row after three o'clock."""
    Rollup.objects.create(
        step=MINUTE,
        start=int(FIRST.timestamp()) + 60 * minute,
        run=run.id,
        source=source_of(run),
        subject=subject,
        **{**UNTOLD, **told},
    )


def seen(run: Run, *minutes: int) -> None:
    """The run told of its four slots in these minutes."""
    for minute in minutes:
        Gauge.objects.create(
            step=MINUTE,
            start=int(FIRST.timestamp()) + 60 * minute,
            run=run.id,
            source=source_of(run),
            name="slots",
            count=6,
            total=24.0,
            least=4.0,
            most=4.0,
            last=4.0,
        )


def asked(reader: Client, chart: str, more: str = "") -> dict[str, Any]:
    """The one chart of the API's answer, by the names of its lines."""
    answer = reader.get(f"/api/v1/trends?chart={chart}&{SPAN}&{more}")
    assert answer.status_code == 200, answer.content
    (found,) = answer.json()["charts"]
    return {each["name"]: each for each in found["series"]} | {"": found}


def test_counts_are_rates_and_what_nobody_told_of_is_unknown(
    reader: Client, make_run: MakeRun
) -> None:
    run = make_run()
    seen(run, 0, 1, 4)
    counted(run, 0, "message", outcome="delivered", count=120)
    counted(run, 4, "message", outcome="delivered", count=30)
    lines = asked(reader, "rate")
    assert lines["messages"]["values"] == [2.0, 0.0, None, None, 0.5]
    assert lines["tasks"]["values"] == [0.0, 0.0, None, None, 0.0]
    assert lines[""]["unit"] == "per second"


def test_failures_stand_by_their_kind_the_most_first(reader: Client, make_run: MakeRun) -> None:
    run = make_run()
    counted(run, 1, "task", outcome="failed", failure="timeout", count=2)
    counted(run, 1, "task", outcome="failed", failure="exit", count=7)
    lines = asked(reader, "failures")
    assert list(lines) == ["exit", "timeout", ""]
    assert lines["exit"]["values"] == [0, 7, 0, 0, 0]
    assert lines[""]["title"] == "Failures by kind"


def test_a_split_is_eight_lines_and_the_others(reader: Client, make_run: MakeRun) -> None:
    for number in range(11):
        counted(
            make_run(f"w-{number:02}"), 0, "task", outcome="completed", count=60 * (11 - number)
        )
    lines = asked(reader, "rate", "split=worker")
    assert list(lines) == [*(f"w-{number:02}" for number in range(8)), "other", ""]
    assert lines["other"]["values"][0] == 3 + 2 + 1
    assert lines[""]["title"] == "Messages and tasks, tasks by worker"


def test_what_does_not_add_up_says_how_many_lines_are_left_out(
    reader: Client, make_run: MakeRun
) -> None:
    for number in range(11):
        told = {"outcome": "completed", "count": 1, "durations": [0, 1], "duration_us": 1200}
        counted(make_run(f"w-{number:02}"), 0, "task", **told)
    lines = asked(reader, "duration", "split=worker")
    assert (len(lines) - 1, lines[""]["left_out"]) == (8, 3)


def test_a_chart_that_cannot_be_split_so_stays_whole(reader: Client, make_run: MakeRun) -> None:
    counted(make_run(), 0, "task", outcome="completed", count=60)
    assert list(asked(reader, "cpu", "split=sink")) == ["CPU", ""]


def test_the_time_before_stands_beside(reader: Client, make_run: MakeRun) -> None:
    run = make_run()
    counted(run, -5, "message", outcome="delivered", count=60)
    counted(run, 0, "message", outcome="delivered", count=120)
    lines = asked(reader, "rate", "compare=before")
    assert lines["messages"]["values"][0] == 2.0
    assert lines["messages"]["before"] == [1.0, 0, 0, 0, 0]
    assert asked(reader, "rate")["messages"]["before"] is None


def test_the_scope_chooses(reader: Client, make_run: MakeRun) -> None:
    counted(make_run("a"), 0, "task", outcome="completed", count=60)
    counted(make_run("b"), 0, "task", outcome="completed", count=120)
    label = {"label": "tenant", "value": "acme", "outcome": "completed", "count": 30}
    counted(make_run("b"), 0, "label", **label)
    assert asked(reader, "rate", "worker=b")["tasks"]["values"][0] == 2.0
    assert asked(reader, "rate", "label=tenant=acme")["tasks"]["values"][0] == 0.5
    assert asked(reader, "rate", "cluster=other")["tasks"]["values"][0] is None


def happened(run: Run, seconds: float, kind: str, **columns: Any) -> None:
    ts = FIRST + timedelta(seconds=seconds)
    Event.objects.create(run=run.id, ts=ts, seq=int(seconds * 10), kind=kind, **columns)


def test_marks_put_together_what_befell_several_at_once(reader: Client, make_run: MakeRun) -> None:
    first, second = make_run("a"), make_run("b")
    changes = [{"key": "program_version", "old": "14", "new": "15"}]
    for run in (first, second):
        happened(run, 60, "version_changed", data={"worker": run.worker, "changes": changes})
    for partition in range(3):
        happened(first, 130, "assigned", topic="t", partition=partition)
    happened(first, 180, "breaker_opened", sink="archive")
    happened(first, 200, "breaker_closed", sink="archive")
    happened(first, 400, "paused", topic="t", partition=1)
    found = reader.get(f"/api/v1/trends?chart=lag&{SPAN}").json()["marks"]
    assert [(each["text"], each["group"]) for each in found] == [
        ("2 workers: version changed program_version 14 to 15", "deploy"),
        ("a: assigned 3 partitions", "rebalance"),
        ("sink archive away, by a", "outage"),
    ]
    assert found[2]["until"] - found[2]["at"] == 20
    of_b = reader.get(f"/api/v1/trends?chart=lag&worker=b&{SPAN}").json()["marks"]
    assert [each["text"] for each in of_b] == ["b: version changed program_version 14 to 15"]
    page = reader.get(f"/trends?{SPAN}").content.decode()
    assert "sink archive away, by a" in page


def test_partitions_are_not_marked_in_a_long_time(reader: Client, make_run: MakeRun) -> None:
    run = make_run("a")
    happened(run, 60, "assigned", topic="t", partition=1)
    happened(run, 60, "worker_stopped", data={"clean": True, "reason": "asked"})
    found = reader.get("/api/v1/trends?chart=lag&range=30d").json()["marks"]
    assert [each["kind"] for each in found] == ["worker_stopped"]


@pytest.mark.parametrize("key", CHARTS)
def test_each_chart_has_a_table_and_a_file(reader: Client, make_run: MakeRun, key: str) -> None:
    counted(make_run(), 0, "task", outcome="completed")
    page = reader.get(f"/trends/{key}?{SPAN}")
    assert page.status_code == 200
    assert CHARTS[key].full_title in page.content.decode()
    file = reader.get(f"/trends/{key}.csv?{SPAN}")
    assert (file.status_code, file["Content-Type"]) == (200, "text/csv; charset=utf-8")
    assert file.content.decode().splitlines()[1].startswith("2026-03-14T03:00:00+00:00")


def test_the_file_leaves_unknown_cells_empty_and_no_name_is_a_formula(
    reader: Client, make_run: MakeRun
) -> None:
    run = make_run("=1+1")
    seen(run, 0, 2)
    counted(run, 0, "task", outcome="completed", count=60)
    rows = reader.get(f"/trends/rate.csv?{SPAN}&split=worker").content.decode().splitlines()
    assert rows[0] == "time,'=1+1 (per second)"
    assert [row.partition(",")[2] for row in rows[1:]] == ["1.0", "", "0.0", "", ""]


def test_small_charts_lead_to_trends_of_the_same_scope(reader: Client, make_run: MakeRun) -> None:
    make_run()
    page = reader.get("/?cluster=main&range=6h").content.decode()
    assert 'data-query="cluster=main&amp;range=6h"' in page
    assert '/trends?cluster=main&amp;range=6h#chart-rate"' in page
    for path in ("/sinks", "/workers/main/worker-1", "/"):
        assert "data-chart=" in reader.get(f"{path}?range=nonsense").content.decode()


@pytest.mark.parametrize("path", ["/trends", "/trends/rate", "/trends/rate.csv"])
def test_a_page_names_what_it_cannot_show(reader: Client, path: str) -> None:
    answer = reader.get(f"{path}?range=2h")
    assert answer.status_code == 400
    assert "range: expected one of 15m" in answer.content.decode()


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("chart=rate&range=2h", "range: expected one of 15m"),
        ("chart=nothing", "chart: expected some of rate"),
        ("range=1h", "query.chart: Field required"),
        ("chart=rate&chart=lag&chart=cpu&chart=slots&chart=queue", "at most 4 items"),
    ],
)
def test_the_api_names_what_it_cannot_show(reader: Client, query: str, said: str) -> None:
    answer = reader.get(f"/api/v1/trends?{query}")
    assert answer.status_code == 422
    assert said in answer.json()["detail"]


def test_there_is_no_chart_of_another_name(reader: Client) -> None:
    assert reader.get("/trends/nothing").status_code == 404
    assert reader.get("/trends/nothing.csv").status_code == 404
