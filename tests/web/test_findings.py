"""What is wrong now: each finding with its cause, since when, and what to do."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone

from recorder.models import Event, Rollup, RollupSource, Run, RunState, RunTrack
from recorder.partitions import create_ahead
from tests.support.reading import read_page
from tests.web.conftest import MakeRun
from workers.control_plane.findings import Finding
from workers.models import ControlRequest, ControlState

pytestmark = pytest.mark.django_db


@pytest.fixture
def reader(client: Client, user: User, make_run: MakeRun) -> Client:
    """A viewer; the controller works."""
    make_run("controller", "_control", counters={"lags": {"main": 1234}})
    client.force_login(user)
    return client


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


def tracked(run: Run, minutes: float = 2, lag: float = 0, spooled: float | None = 0) -> None:
    """What a run kept of the last minutes: 1,000 each at first, moved by that each ten seconds."""
    now, last = timezone.now(), int(minutes * 6)
    samples = [
        [
            now.timestamp() - 10.0 * (last - n),
            [n] * 5,
            1000 + lag * n,
            None,
            1,
            *([] if spooled is None else [1000 + spooled * n]),
        ]
        for n in range(last + 1)
    ]
    RunTrack.objects.create(run=run, written_at=now, samples=samples)


def test_nothing_is_wrong(reader: Client, make_run: MakeRun) -> None:
    make_run(partitions=[row()], sinks=[{"name": "out", "breaker": "closed"}])
    assert findings(reader) == []


def test_a_parked_partition_is_named_with_its_cause(reader: Client, make_run: MakeRun) -> None:
    run = make_run(partitions=[row(state="parked", parked={"sink": "disk full"})])
    tell(run, "parked", 5, topic="t", partition=3, data={"cause": "sink"})
    found = only(reader)
    assert (found.title, found.detail) == ("Partition 3 of t: parked, sink", "disk full")
    assert found.age_seconds == pytest.approx(300.0, abs=20.0)
    assert (found.url, found.action) == ("/partitions/main/t/3", "Open partition")


def test_the_page_of_a_parked_partition_says_what_ends_each_cause(
    reader: Client, make_run: MakeRun
) -> None:
    causes = {"dead_letter_flood": "90 of 100", "of_another_release": "disk full"}
    make_run(partitions=[row(state="parked", parked=causes)])
    page = read_page(reader.get("/partitions/main/t/3"))
    assert page.count("<dt>Parked</dt>") == 2
    assert re.findall("<dt>Goes on</dt><dd>([^<]*)</dd>", page) == [
        "on unpark_partition: it counts anew"
    ]


def test_a_dead_letter_flood(reader: Client, make_run: MakeRun) -> None:
    make_run(partitions=[row(state="parked", parked={"dead_letter_flood": "90 of 100"})])
    found = only(reader)
    assert found.title == "Partition 3 of t: parked, dead-letter flood"
    assert found.age_seconds is None
    assert (found.url, found.action) == ("/dead-letters?cluster=main", "Open dead letters")


def test_a_stalled_partition_is_named_with_what_waits(reader: Client, make_run: MakeRun) -> None:
    run = make_run(partitions=[row(state="stalled", lag=70)])
    tell(run, "stalled", 2, topic="t", partition=3)
    found = only(reader)
    assert found.title == "Partition 3 of t: stalled"
    assert "70 messages wait" in found.detail
    assert found.age_seconds == pytest.approx(120.0, abs=20.0)
    assert found.url == "/partitions/main/t/3"


def test_figures_that_are_unknown_are_told_so(reader: Client, make_run: MakeRun) -> None:
    blocker = {"offset": 7, "age_seconds": 90.0}
    make_run(partitions=[row(state="stalled"), row(partition=4, blocker=blocker)])
    stalled, blocked = findings(reader)
    assert stalled.detail == "How many messages wait is unknown; worker-1 gets none of them."
    assert "an unknown number of messages have no fate yet" in blocked.detail


def test_a_blocker_that_waits_for_its_key_or_group_is_told_with_that(
    reader: Client, make_run: MakeRun
) -> None:
    why = "group acme, at its bound of 2"
    blocker = {"offset": 7, "task_id": "3:7:0", "age_seconds": 90.0, "waits_for": why}
    make_run(partitions=[row(blocker=blocker)])
    assert only(reader).detail.startswith(f"It waits for {why}. ")


def test_an_open_breaker(reader: Client, make_run: MakeRun) -> None:
    sink = {"name": "out", "kind": "mongo", "breaker": "open", "last_error": "timed out"}
    run = make_run(sinks=[sink])
    tell(run, "breaker_opened", 1, sink="out")
    found = only(reader)
    assert found.title == "Sink out (mongo) on worker-1: breaker open"
    assert found.detail == "timed out."
    assert found.age_seconds == pytest.approx(60.0, abs=20.0)
    assert (found.url, found.action) == ("/sinks?cluster=main#sink-main%2Fout", "Open sink")
    assert 'id="sink-main%2Fout"' in read_page(reader.get("/sinks?cluster=main"))


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
    tracked(run, spooled=20_000)
    found = only(reader)
    assert found.title == "Worker main/worker-1: history is spooled"
    assert "500,000 bytes" in found.detail
    assert "more each second" in found.detail
    assert found.age_seconds == pytest.approx(120.0, abs=20.0)
    assert found.url == "/workers?cluster=main"


@pytest.mark.parametrize(("first", "seconds"), [(0, 100.0), (4_000_000, None)])
def test_a_spool_that_waits_does_so_since_it_was_empty(
    first: int, seconds: float | None, reader: Client, make_run: MakeRun
) -> None:
    now = timezone.now()
    spooled = [first] * 5 + [5_000_000] * 10
    samples = [
        [now.timestamp() - 10 * (14 - n), [0] * 5, None, None, 0, count, 0]
        for n, count in enumerate(spooled)
    ]
    run = make_run(recorder={"spooled_bytes": 5_000_000})
    RunTrack.objects.create(run=run, written_at=now, samples=samples)
    found = only(reader)
    assert "5,000,000 bytes wait on its disk: Postgres" in found.detail
    assert found.age_seconds == (seconds and pytest.approx(seconds, abs=20.0))


def shed_counts(run: Run, *counts: int) -> None:
    """What a run kept of its shed count, one each ten seconds, now the last."""
    now = timezone.now()
    samples = [
        [now.timestamp() - 10 * (len(counts) - 1 - n), [0] * 5, None, None, 0, 0, count]
        for n, count in enumerate(counts)
    ]
    RunTrack.objects.create(run=run, written_at=now, samples=samples)


def test_history_has_gaps_while_shedding_is_recent(reader: Client, make_run: MakeRun) -> None:
    run = make_run(recorder={"shed": 7})
    tell(run, "recorder_shed", 20)
    assert findings(reader) == []
    tell(run, "recorder_shed", 5)
    found = only(reader)
    assert found.title == "Worker main/worker-1: history has gaps"
    assert "7 events could not be kept" in found.detail
    assert found.age_seconds == pytest.approx(300.0, abs=20.0)
    assert found.url == "/history?kind=recorder_shed&cluster=main&worker=worker-1"


@pytest.mark.parametrize(
    ("counts", "seconds"),
    [([0, 0, 7, 7, 7, 7], 30.0), ([5] * 60, 0.0), ([7] * 60, None)],
)
def test_history_has_gaps_by_what_the_run_kept(
    counts: list[int], seconds: float | None, reader: Client, make_run: MakeRun
) -> None:
    run = make_run(recorder={"shed": 7})
    shed_counts(run, *counts)
    ages = [found.age_seconds for found in findings(reader)]
    assert ages == ([] if seconds is None else [pytest.approx(seconds, abs=20.0)])


def test_when_events_were_shed_is_unknown(reader: Client, make_run: MakeRun) -> None:
    make_run(recorder={"shed": 7})
    assert only(reader).age_seconds is None


def test_the_controller_gives_no_answer(client: Client, user: User, make_run: MakeRun) -> None:
    client.force_login(user)
    make_run()
    found = only(client)
    assert (found.title, found.age_seconds) == ("Controller: no answer", None)
    ended = make_run("controller", "_control", state="stopped")
    assert only(client).title == "Controller: no answer"
    RunState.objects.filter(run=ended).update(beat_at=timezone.now() - timedelta(minutes=9))
    found = only(client)
    assert found.age_seconds == pytest.approx(540.0, abs=20.0)
    assert (found.url, found.action) == ("/debug?cluster=_control", "See its runs")
    listed = [run.id for run in client.get(found.url).context["runs"]]
    assert listed == [ended.id]


def test_a_lag_that_grows_is_named_with_its_pace(reader: Client, make_run: MakeRun) -> None:
    tracked(make_run(partitions=[row(lag=2600)]), lag=50)
    tracked(make_run("worker-2", partitions=[row(partition=4, lag=2600)]), lag=50)
    found = only(reader)
    assert found.title == "Cluster main: lag grows"
    assert found.detail.startswith("The cause is unclear: how busy its slots are is unknown. ")
    assert "5,200 messages wait, 10 more each second" in found.detail
    assert found.age_seconds == pytest.approx(120.0, abs=20.0)
    assert found.url == "/partitions?cluster=main&sort=lag"


def test_a_lag_that_grows_is_told_with_its_cause(reader: Client, make_run: MakeRun) -> None:
    pool = {"slots": 8, "busy": 8, "waiting": 412}
    tracked(make_run(partitions=[row(lag=2600)], pool=pool), lag=50)
    found = only(reader)
    assert found.detail.startswith("Every slot is busy: 8 of 8 slots busy, 412 tasks wait. ")
    assert (found.key, found.anchor) == ("lag_grows:main:", "lag_grows-pool_full")


def test_a_lag_that_grows_with_a_worker_less_than_an_hour_ago(
    reader: Client, make_run: MakeRun
) -> None:
    now = timezone.now()
    gone, stays = make_run("worker-2", state="stopped", ended_at=now), make_run()
    Run.objects.filter(id__in=(gone.id, stays.id)).update(started_at=now - timedelta(hours=2))
    tracked(stays, lag=50)
    (found,) = (each for each in findings(reader) if each.kind == "lag_grows")
    assert "Fewer workers than an hour ago: 1 worker, 2 an hour ago." in found.detail


def test_a_commit_that_waits_for_a_slot_says_that_the_pool_is_full(
    reader: Client, make_run: MakeRun
) -> None:
    pool = {"slots": 2, "busy": 2, "waiting": 9, "running": [{"task_id": "9:1:0"}]}
    blocker = {"offset": 7, "task_id": "3:7:0", "age_seconds": 90.0}
    make_run(partitions=[row(blocker=blocker, pending=4)], pool=pool)
    found = only(reader)
    assert found.title == "Partition 3 of t: pool full, commit waits for 3:7:0"
    assert found.detail.startswith("Every slot is busy (2 of 2, 9 wait): it has none yet.")
    assert (found.url, found.action) == ("/task/main/3:7:0", "Open task")


def test_lag_grows_in_the_cluster_of_a_chosen_worker(reader: Client, make_run: MakeRun) -> None:
    tracked(make_run(), lag=-50)
    tracked(make_run("worker-2"), lag=200)
    page = reader.get("/?worker=worker-1")
    assert [each.title for each in page.context["findings"]] == ["Cluster main: lag grows"]
    assert [(name, found.course) for name, found in page.context["drains"]] == [("main", "unknown")]


def test_what_an_older_worker_kept_knows_no_spool(reader: Client, make_run: MakeRun) -> None:
    run = make_run(recorder={"spooled_bytes": 500_000})
    tracked(run, lag=500, spooled=None)
    assert [each.title for each in findings(reader)] == ["Cluster main: lag grows"]


def test_the_time_to_drain_is_a_range_and_the_same_in_header_and_tile(
    reader: Client, make_run: MakeRun
) -> None:
    tracked(make_run(partitions=[row(lag=4000)]), lag=-50)
    page = reader.get("/")
    assert page.context["findings"] == []
    ((name, found),) = page.context["drains"]
    assert (name, found.words) == ("main", "drained in 13 to 14 min")
    text = " ".join(read_page(page).split())
    assert text.count("falling by 5 a second, drained in 13 to 14 min") == 2


def test_a_partition_says_when_it_is_drained(reader: Client, make_run: MakeRun) -> None:
    make_run(partitions=[row(lag=540, lag_paces=[-1.5, -1.0])])
    assert "drained in 6 to 9 min" in read_page(reader.get("/partitions/main/t/3"))
    assert "drained in 6 to 9 min" in read_page(reader.get("/partitions"))


def test_clusters_drain_by_themselves(reader: Client, make_run: MakeRun) -> None:
    tracked(make_run(partitions=[row(lag=4000)]), lag=-50)
    tracked(make_run("worker-2", "other", partitions=[row(lag=700)]), lag=-1)
    page = reader.get("/")
    told = {name: found.words for name, found in page.context["drains"]}
    assert told == {"main": "drained in 13 to 14 min", "other": "drained in 116 to 117 min"}
    assert "main falling by 5 a second" in " ".join(read_page(page).split())


def test_what_grows_is_not_said_to_drain(reader: Client, make_run: MakeRun) -> None:
    tracked(make_run(partitions=[row(lag=4000)]), lag=50)
    assert "growing by 5 a second, does not drain" in read_page(reader.get("/"))


def test_a_cluster_without_a_worker_is_named(reader: Client, make_run: MakeRun) -> None:
    run = make_run(state="stopped")
    tell(run, "assigned", -0.1, topic="t", partition=3, data={"epoch": 1})
    page = reader.get("/")
    (found,) = page.context["findings"]
    assert found.title == "Cluster main: no worker lives"
    assert "1,234 messages wait" in found.detail
    assert "runworker --cluster main" in found.detail
    assert page.context["lag"] == 1234
    assert [row["partition"] for _, rows in page.context["unowned"] for row in rows] == [3]
    listed = read_page(reader.get("/partitions"))
    assert "lag <b>1,234</b>" in listed
    assert 'data-key="main/t/3"' in listed
    assert "none since" in listed
    make_run("worker-2")
    assert reader.get("/").context["unowned"] == []


def test_what_a_lost_worker_held_is_shown_until_another_has_it(
    reader: Client, make_run: MakeRun
) -> None:
    make_run("worker-1", partitions=[row(partition=1, lag=5)])
    make_run("worker-2", state="lost", partitions=[row(partition=1), row(partition=3)])
    page = reader.get("/")
    found = [row for _, rows in page.context["unowned"] for row in rows]
    assert [(row["partition"], row["owner"]) for row in found] == [(3, "worker-2")]
    assert "2</b> partitions" in read_page(page)
    assert page.context["lag"] is None
    listed = reader.get("/partitions")
    assert b"none since" in listed.content
    assert listed.context["lag"] is None
    make_run("worker-3", partitions=[row(partition=3, lag=2)])
    assert reader.get("/").context["unowned"] == []
    assert reader.get("/partitions").context["lag"] == 7


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
    assert "Since when is unknown" in read_page(page)


def paused(action: str, worker: str = "worker-1", **arguments: Any) -> None:
    ControlRequest.objects.create(
        key=uuid4().hex, cluster="main", worker=worker, action=action, arguments=arguments,
        state=ControlState.DONE, actor="mara", reason="ticket 12",
        ended_at=timezone.now() - timedelta(minutes=3),
    )  # fmt: skip


def test_paused_partitions_are_one_line_with_who_and_why(reader: Client, make_run: MakeRun) -> None:
    rows = [row(partition=n, lag=10, state="paused", is_paused=True) for n in (4, 5)]
    make_run(partitions=[*rows, row(partition=6)])
    for number in (4, 5):
        paused("pause_partition", topic="t", partition=number)
    found = only(reader)
    assert found.title == "Cluster main: partitions 4, 5 paused"
    assert found.detail == "20 messages wait, by mara: ticket 12"
    assert found.age_seconds == pytest.approx(180.0, abs=20.0)
    assert found.url == "/partitions?cluster=main&state=paused"


def test_a_paused_worker_and_sink_say_who_and_why(reader: Client, make_run: MakeRun) -> None:
    make_run(state="paused", sinks=[{"name": "out", "is_paused": True, "queue_entries": 7}])
    paused("pause_intake")
    paused("pause_sink", sink="out")
    worker, sink = findings(reader)
    assert worker.detail == "Its intake is paused, by mara: ticket 12"
    assert sink.title == "Sink out on worker-1: paused"
    assert sink.detail == "7 payloads wait, by mara: ticket 12"


def test_who_paused_it_may_be_unknown(reader: Client, make_run: MakeRun) -> None:
    make_run(partitions=[row(is_paused=True)])
    assert only(reader).detail == "How many messages wait is unknown"


def rolled_up(
    minutes_ago: int, subject: str = "task", outcome: str = "completed", **sums: Any
) -> None:
    """Sums of one minute of the cluster main, as the recorder stores them."""
    source, _ = RollupSource.objects.get_or_create(
        cluster="main", worker="worker-1", host="host", handler_version="", program_version=""
    )
    begin = int(timezone.now().timestamp()) // 60 * 60 - 60 * minutes_ago
    zeros = {"count": 0, "duration_us": 0, "wait_us": 0, "output_bytes": 0, "durations": []}
    texts = dict.fromkeys(("failure", "sink", "label", "value"), "")
    Rollup.objects.create(
        **{**texts, **zeros, "waits": [], **sums},
        step=60, start=begin, run=uuid4(), source=source.id, subject=subject, outcome=outcome,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("failed", "completed", "is_told"),
    [(60, 40, True), (40, 60, False), (15, 0, False)],
)
def test_tasks_that_fail_are_told_while_most_do(
    failed: int, completed: int, is_told: bool, reader: Client, make_run: MakeRun
) -> None:
    make_run(partitions=[row()])
    rolled_up(0, outcome="failed", count=failed)
    rolled_up(0, count=completed)
    rolled_up(9, outcome="failed", count=5000)
    found = findings(reader)
    assert [each.title for each in found] == ["Cluster main: tasks fail"] * is_told
    if is_told:
        assert found[0].detail == "60 of 100 attempts failed in the last minute."


def test_a_program_that_became_slower_is_told_by_the_rollups(
    reader: Client, make_run: MakeRun
) -> None:
    pool = {"slots": 8, "busy": 8, "waiting": 412}
    tracked(make_run(partitions=[row(lag=2600)], pool=pool), lag=50)
    rolled_up(1, count=100, durations=[0] * 30 + [100])
    rolled_up(30, count=100, durations=[0] * 20 + [100])
    found = only(reader)
    assert found.cause == "slow_program"
    assert found.detail.startswith("The program became slower: half of the tasks take ")
    assert "8 of 8 slots busy" in found.detail


def test_more_input_is_told_by_the_rollups(reader: Client, make_run: MakeRun) -> None:
    tracked(make_run(partitions=[row(lag=2600)]), lag=50)
    for minutes in range(1, 6):
        rolled_up(minutes, "input", "", count=6000)
    for minutes in range(12, 70):
        rolled_up(minutes, "input", "", count=600)
    found = only(reader)
    assert found.cause == "more_input"
    assert "messages come a second" in found.detail
