"""What is wrong now: each finding with its cause, since when, and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone

from recorder.models import Event, Run, RunState
from recorder.partitions import create_ahead
from tests.web.conftest import MakeRun
from workers.pages.trend import TREND, Trend, slope
from workers.pages.wrong import Finding

pytestmark = pytest.mark.django_db
START = datetime(2026, 3, 14, 3, 0, tzinfo=UTC)


@pytest.fixture
def reader(client: Client, user: User, make_run: MakeRun) -> Iterator[Client]:
    """A viewer; the controller works."""
    make_run("controller", "_control", counters={"lags": {"main": 1234}})
    client.force_login(user)
    TREND.samples.clear()
    yield client
    TREND.samples.clear()


def findings(reader: Client) -> list[Finding]:
    found: list[Finding] = reader.get("/").context["findings"]
    return found


def only(reader: Client) -> Finding:
    (finding,) = findings(reader)
    return finding


def tell(run: Run, kind: str, minutes_ago: float, **columns: Any) -> None:
    at = timezone.now() - timedelta(minutes=minutes_ago)
    create_ahead(at)
    Event.objects.create(run=run.id, seq=1, ts=at, kind=kind, **columns)


def row(**figures: Any) -> dict[str, Any]:
    return {"topic": "t", "partition": 3, "state": "running", **figures}


def noted(key: tuple[str, str], step: float) -> None:
    """A figure that moved by ``step`` each ten seconds of the last two minutes."""
    now = timezone.now()
    for number in range(12):
        value = 1000.0 + step * number
        TREND.note(now - timedelta(seconds=10.0 * (12 - number)), {key: value})


def test_nothing_is_wrong(reader: Client, make_run: MakeRun) -> None:
    make_run(partitions=[row()], sinks=[{"name": "out", "breaker": "closed"}])
    assert findings(reader) == []


def test_parked(reader: Client, make_run: MakeRun) -> None:
    run = make_run(partitions=[row(state="parked", parked={"sink": "disk full"})])
    tell(run, "parked", 5, topic="t", partition=3, data={"cause": "sink"})
    found = only(reader)
    assert (found.title, found.detail) == ("Partition 3 of t: parked, sink", "disk full")
    assert found.age_seconds == pytest.approx(300.0, abs=20.0)
    assert (found.url, found.action) == ("/partitions/main/t/3", "Open partition")


def test_a_dead_letter_flood(reader: Client, make_run: MakeRun) -> None:
    make_run(partitions=[row(state="parked", parked={"dead_letter_flood": "90 of 100"})])
    found = only(reader)
    assert found.title == "Partition 3 of t: parked, dead-letter flood"
    assert found.age_seconds is None
    assert (found.url, found.action) == ("/dead-letters?cluster=main", "Open dead letters")


def test_stalled(reader: Client, make_run: MakeRun) -> None:
    run = make_run(partitions=[row(state="stalled", lag=70)])
    tell(run, "stalled", 2, topic="t", partition=3)
    found = only(reader)
    assert found.title == "Partition 3 of t: stalled"
    assert "70 messages wait" in found.detail
    assert found.age_seconds == pytest.approx(120.0, abs=20.0)
    assert found.url == "/partitions/main/t/3"


def test_an_open_breaker(reader: Client, make_run: MakeRun) -> None:
    sink = {"name": "out", "kind": "mongo", "breaker": "open", "last_error": "timed out"}
    run = make_run(sinks=[sink])
    tell(run, "breaker_opened", 1, sink="out")
    found = only(reader)
    assert found.title == "Sink out (mongo) on worker-1: breaker open"
    assert found.detail == "timed out."
    assert found.age_seconds == pytest.approx(60.0, abs=20.0)
    assert found.url == "/sinks"


def test_a_lost_worker(reader: Client, make_run: MakeRun) -> None:
    lost = make_run("worker-2", state="lost")
    make_run()
    ago = timezone.now() - timedelta(minutes=3)
    RunState.objects.filter(run=lost).update(beat_at=ago)
    found = only(reader)
    assert found.title == "Worker main/worker-2: lost"
    assert found.age_seconds == pytest.approx(180.0, abs=20.0)
    assert found.url == "/history?cluster=main&worker=worker-2"


def test_a_spool_grows(reader: Client, make_run: MakeRun) -> None:
    run = make_run(recorder={"spooled_bytes": 500_000})
    noted(("spool", str(run.id)), 20_000.0)
    found = only(reader)
    assert found.title == "Worker main/worker-1: history is spooled"
    assert "500,000 bytes" in found.detail
    assert "more each second" in found.detail
    assert found.age_seconds == pytest.approx(120.0, abs=20.0)
    assert found.url == "/workers"


def test_lag_grows(reader: Client, make_run: MakeRun) -> None:
    make_run(partitions=[row(lag=9000)])
    noted(("lag", "main"), 500.0)
    found = only(reader)
    assert found.title == "Cluster main: lag grows"
    assert "9,000 messages wait" in found.detail
    assert found.url == "/partitions?cluster=main&sort=lag"


def test_the_time_to_drain(reader: Client, make_run: MakeRun) -> None:
    make_run(partitions=[row(lag=200)])
    noted(("lag", "main"), -50.0)
    page = reader.get("/")
    assert page.context["findings"] == []
    assert page.context["drain_seconds"] == pytest.approx(40.0, abs=15.0)
    assert b"draining in about" in page.content


def test_no_worker_lives(reader: Client, make_run: MakeRun) -> None:
    run = make_run(state="stopped")
    tell(run, "assigned", -0.1, topic="t", partition=3, data={"epoch": 1})
    page = reader.get("/")
    (found,) = page.context["findings"]
    assert found.title == "Cluster main: no worker lives"
    assert "1,234 messages wait" in found.detail
    assert "runworker --cluster main" in found.detail
    assert page.context["lag"] == 1234
    assert [row["partition"] for row in page.context["orphans"]] == [3]
    listed = reader.get("/partitions").content.decode()
    assert 'data-key="main/t/3"' in listed
    assert "none since" in listed
    make_run("worker-2")
    assert reader.get("/").context["orphans"] == []


def test_what_a_lost_worker_held_is_shown_until_another_has_it(
    reader: Client, make_run: MakeRun
) -> None:
    make_run("worker-1", partitions=[row(partition=1, lag=5)])
    make_run("worker-2", state="lost", partitions=[row(partition=1), row(partition=3)])
    page = reader.get("/")
    assert [(each["partition"], each["owner"]) for each in page.context["orphans"]] == [
        (3, "worker-2")
    ]
    assert page.context["lag"] is None
    listed = reader.get("/partitions")
    assert b"none since" in listed.content
    assert listed.context["lag"] is None
    make_run("worker-3", partitions=[row(partition=3, lag=2)])
    assert reader.get("/").context["orphans"] == []
    assert reader.get("/partitions").context["lag"] == 7


@pytest.mark.parametrize(
    ("values", "steady"),
    [
        ([1000 + 50 * n for n in range(12)], True),
        ([1000 + 5 * n for n in range(12)], False),  # less than a tenth
        ([5 * n for n in range(12)], False),  # less than a hundred messages
        ([1000, 2000] * 6, False),  # to and fro
        ([3000 - 50 * n for n in range(12)], False),
        ([1000] * 9 + [2000] * 3, False),  # a single step may be a batch that came
    ],
)
def test_what_grows(values: list[float], steady: bool) -> None:
    samples = [(START + timedelta(seconds=10.0 * n), value) for n, value in enumerate(values)]
    found = slope(samples, least=100)
    assert found is not None
    assert found.is_steady is steady


def test_a_trend_needs_a_minute_and_forgets() -> None:
    trend = Trend()
    for second in range(0, 60, 5):
        trend.note(START + timedelta(seconds=second), {("lag", "main"): 1.0})
    assert trend.slope("lag", "main") is None
    trend.note(START + timedelta(seconds=60), {("lag", "main"): 1.0})
    assert trend.slope("lag", "main") is not None
    trend.note(START + timedelta(seconds=600), {("lag", "other"): 1.0})
    assert trend.slope("lag", "main") is None


def test_what_a_ready_worker_waits_for(reader: Client, make_run: MakeRun) -> None:
    ago = timezone.now() - timedelta(minutes=4)
    waits = "kafka: a partition: it was given none of 4"
    make_run(worker="w-1", waiting_for=waits, state_since=ago)
    found = only(reader)
    assert found.title == "Worker main/w-1: ready"
    assert found.detail == "Waits for kafka: a partition: it was given none of 4"
    assert found.age_seconds == pytest.approx(240.0, abs=20.0)
    assert (found.url, found.action) == ("/live?cluster=main&worker=w-1", "See it live")


@pytest.mark.parametrize(
    ("state", "cause", "page", "action"),
    [
        ("paused", "Its intake is paused", "workers", "Resume it there"),
        ("draining", "Not working yet or no more", "live", "See it live"),
        ("starting", "Not working yet or no more", "live", "See it live"),
    ],
)
def test_a_worker_that_does_not_work(
    state: str, cause: str, page: str, action: str, reader: Client, make_run: MakeRun
) -> None:
    make_run(state=state, state_since=timezone.now() - timedelta(minutes=7))
    found = only(reader)
    assert (found.title, found.detail) == (f"Worker main/worker-1: {state}", cause)
    assert found.age_seconds == pytest.approx(420.0, abs=20.0)
    assert (found.url, found.action) == (f"/{page}?cluster=main&worker=worker-1", action)


def test_since_when_is_unknown_not_zero(reader: Client, make_run: MakeRun) -> None:
    make_run(state="paused")
    page = reader.get("/")
    assert [each.age_seconds for each in page.context["findings"]] == [None]
    assert "Since when is unknown" in page.content.decode()
