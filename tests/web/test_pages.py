"""The dashboard's figures and the history's pages."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Group, User
from django.test import Client
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries

from recorder.models import Event, RunTrack
from tests.support.reading import read_page
from tests.web.conftest import MakeRun, make_events
from workers.control_plane import queries
from workers.runtime.metric_history import forget_old

pytestmark = pytest.mark.django_db


@pytest.fixture
def reader(client: Client, user: User) -> Client:
    client.force_login(user)
    return client


def test_nothing_has_run(reader: Client) -> None:
    document = reader.get("/api/v1/dashboard").json()
    assert document == {
        "workers": [],
        "partitions": [],
        "pool": {"slots": None, "busy": None},
        "lag": None,
    }
    assert b"No worker has ever run" in reader.get("/").content


def test_counters_sum_over_runs(reader: Client, make_run: MakeRun) -> None:
    row = {"topic": "t", "partition": 3, "queue": 2, "lag": 7, "state": "running"}
    make_run(state="stopped", counters={"consumed": 5, "fates": {"delivered": 4}}, partitions=[row])
    make_run(
        counters={"consumed": 2, "fates": {"delivered": 1}},
        partitions=[row],
        pool={"slots": 4, "busy": 1},
    )
    make_run(worker="controller", cluster="_control")
    document = reader.get("/api/v1/dashboard").json()
    (worker,) = document["workers"]
    assert (worker["consumed"], worker["fates"]["delivered"]) == (7, 5)
    assert worker["tasks_failed"] is None
    assert worker["fates"]["skipped"] is None
    assert document["partitions"] == [{"cluster": "main", "owner": "worker-1", **row}]
    assert document["pool"] == {"slots": 4, "busy": 1}
    assert document["lag"] == 7


def test_unknown_lag_is_not_zero(reader: Client, make_run: MakeRun) -> None:
    make_run(partitions=[{"topic": "t", "partition": 0, "lag": None, "state": "running"}])
    assert reader.get("/api/v1/dashboard").json()["lag"] is None
    assert "unknown" in read_page(reader.get("/"))


def test_sparklines_show_the_ten_minutes_before_the_page_was_opened(
    reader: Client, make_run: MakeRun, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    now = timezone.now()
    owned = [{"topic": "t", "partition": 0, "lag": 63, "state": "running"}]
    for worker, age_seconds, partitions in (("worker-1", 0, owned), ("worker-2", 700, [])):
        RunTrack.objects.create(
            run=make_run(worker, partitions=partitions),
            written_at=now - timedelta(seconds=age_seconds),
            samples=[
                [now.timestamp() - 10 * n, [9 - n] * 5, n, None, 1] for n in range(64, -1, -1)
            ],
        )
    make_run("worker-3")
    with django_assert_num_queries(1):
        assert [each.run.beat.state for each in queries.tracks(615)] == ["ready"]
    page = reader.get("/")
    assert set(page.context["sparks"]["consumed"].values) == {0.1}
    text = read_page(page)
    assert "0.1 a second" in text
    assert "falling by 0.1 a second, drained in 10 to 11 min" in text
    assert text.count('<path class="area" d="M0.0') == 6
    RunTrack.objects.filter(run__worker="worker-2").update(written_at=now - timedelta(hours=2))
    assert (forget_old(), RunTrack.objects.get().run.worker) == (1, "worker-1")
    other = reader.get("/?worker=worker-3")
    assert '<path class="area"' not in read_page(other)


@pytest.mark.usefixtures("kafka_has_half_a_second")
@pytest.mark.parametrize(
    ("path", "entry", "how"),
    [
        ("/", "Dashboard", "page"),
        ("/workers", "Workers", "page"),
        ("/control", "Requests", "page"),
        ("/partitions/main/t/0", "Partitions", "true"),
        ("/dead-letters/jobs", "Dead letters", "true"),
        ("/reruns/new", "Reruns", "true"),
        ("/debug/databases", "Databases", "page"),
        ("/topics", "Topics", "page"),
        ("/probe", "Probe", "page"),
        ("/trace", "Trace", "page"),
        ("/task/main/0:1:0", "Trace", "true"),
    ],
)
def test_each_page_marks_its_entry_of_the_navigation(
    reader: Client, path: str, entry: str, how: str
) -> None:
    page = read_page(reader.get(path))
    nav = re.search(r"<nav id=.nav.*?</nav>", page, re.DOTALL)
    assert nav is not None
    assert re.findall(r'aria-current="(\w+)">([^<]*)<', nav[0]) == [(how, entry)]


def test_choice_of_cluster_and_worker(reader: Client, make_run: MakeRun) -> None:
    for worker, cluster in (("a", "main"), ("b", "main"), ("a", "rank")):
        make_run(worker, cluster)
    found = reader.get("/api/v1/dashboard?cluster=main&worker=b").json()["workers"]
    assert [(each["cluster"], each["name"]) for each in found] == [("main", "b")]
    assert b'href="/history?cluster=main"' in reader.get("/?cluster=main").content


def test_what_is_wrong(reader: Client, make_run: MakeRun) -> None:
    parked = {"topic": "t", "partition": 3, "state": "parked", "parked": {"sink": "full <disk>"}}
    make_run(partitions=[parked], recorder={"shed": 3})
    page = read_page(reader.get("/"))
    assert "parked, sink" in page
    assert "full &lt;disk&gt;" in page
    assert "3 events could not be kept" in page


def seqs(page: str) -> list[int]:
    return [int(found) for found in re.findall(r"</a>:<a [^>]+>(\d+)</a></td>", page)]


def link(page: str, rel: str) -> str:
    found = re.search(rf'rel="{rel}" href="([^"]+)"', page)
    assert found is not None
    return "/history" + found[1].replace("&amp;", "&")


def test_pages_miss_and_repeat_nothing(reader: Client, make_run: MakeRun) -> None:
    make_events(make_run(), 120)
    first = read_page(reader.get("/history?kind=consumed"))
    second = read_page(reader.get(link(first, "next")))
    third = read_page(reader.get(link(second, "next")))
    assert seqs(first) + seqs(second) + seqs(third) == list(range(120, 0, -1))
    assert 'rel="next"' not in third
    assert "The newest <b>50</b> events, newest first" in first
    assert "A page of <b>20</b> events, newest first" in third
    assert seqs(read_page(reader.get(link(third, "prev")))) == seqs(second)


def test_a_search_looks_at_so_many_rows_a_page(
    reader: Client, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recorder.queries.SEARCHED_ROWS", 40)
    run = make_run()
    make_events(run, 118)
    make_events(run, 1, offset=7, labels={"who": "mara"})  # among the oldest
    first = read_page(reader.get("/history?text=ARA"))
    assert seqs(first) == []
    assert "Looked at 40 rows at the most" in first
    second = read_page(reader.get(link(first, "next")))
    third = read_page(reader.get(link(second, "next")))
    assert (seqs(second), seqs(third)) == ([], [7])
    assert "Search on" not in third
    assert seqs(read_page(reader.get(link(third, "prev")))) == []


def test_a_search_opens_so_many_events_a_page(
    reader: Client, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recorder.queries.SEARCHED_EVENTS", 3)
    make_events(make_run(), 5, data={"started_at": 1.0})  # held by rows, shown by no event
    first = read_page(reader.get("/history?text=started_at"))
    second = read_page(reader.get(link(first, "next")))
    assert (seqs(first), "Search on" in first) == ([], True)
    assert (seqs(second), "Search on" in second) == ([], False)


def test_counts_beside_the_history_are_of_what_fits(
    reader: Client, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_events(make_run(), 30)
    make_events(
        make_run(worker="worker-2"), 40, 31, kind="task_failed", data={"failure": "timeout"},
        labels={"tenant": "acme"},
    )  # fmt: skip
    page = read_page(reader.get("/history"))
    assert "all 40 rows that fit" in page
    counted = dict(
        re.findall(r'href="\?(\w+=[^"&]+)[^"]*">[^<]+</a>\s*<b class="num">(\d+)</b>', page)
    )
    assert counted == {
        "kind=consumed": "30", "kind=task_failed": "10", "worker=worker-1": "30",
        "worker=worker-2": "10", "text=timeout": "10", "label=tenant%3Dacme": "10",
    }  # fmt: skip
    bars = re.findall(r'aria-label="(\d+) events from [^"]*?(?:, (\d+) failed)?"', page)
    assert sum(int(count) for count, _ in bars) == 40
    assert sum(int(bad or 0) for _, bad in bars) == 10
    (first, *_) = re.findall(r'data-since="([^"]+)" data-until="([^"]+)"', page)
    narrowed = read_page(reader.get("/history", {"since": first[0], "until": first[1]}))
    assert len(seqs(narrowed)) == int(bars[0][0])
    monkeypatch.setattr("recorder.facets.COUNTED_ROWS", 15)
    assert "the newest 15 rows that fit" in read_page(reader.get("/history"))


def test_what_comes_by_the_clock_is_shown_when_asked_for(reader: Client, make_run: MakeRun) -> None:
    run = make_run()
    make_events(run, 2)
    make_events(run, 3, 3, kind="committed")
    page = read_page(reader.get("/history"))
    assert seqs(page) == [2, 1]
    assert "Show commits and periodic runs" in page
    assert seqs(read_page(reader.get("/history?noise=1"))) == [3, 2, 1]
    assert seqs(read_page(reader.get("/history?kind=committed"))) == [3]
    assert len(reader.get("/api/v1/events").json()["events"]) == 3


def test_columns_are_chosen_in_the_address(reader: Client, make_run: MakeRun) -> None:
    make_events(make_run(), 1)
    page = read_page(reader.get("/history?column=time&column=sink&column=nonsense"))
    assert re.findall(r'<th scope="col"[^>]*>(\w+)</th>', page) == ["Time", "Sink"]
    assert len(re.findall(r"<td", page)) == 2
    every = read_page(reader.get("/history"))
    assert "Worker" in re.findall(r'<th scope="col"[^>]*>(\w+)</th>', every)


@pytest.mark.parametrize("query", ["label=who=mara", "kind=parked", "worker=seldom"])
def test_every_filter_looks_at_a_window_of_rows(
    reader: Client, user: User, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, query: str
) -> None:
    user.groups.add(Group.objects.get(name="operator"))
    monkeypatch.setattr("recorder.queries.WINDOW_ROWS", 40)
    make_events(make_run(), 118)
    make_events(make_run(worker="seldom"), 7, 7, kind="parked", labels={"who": "mara"})
    pages = [read_page(reader.get(f"/history?{query}"))]
    while "Search on" in pages[-1]:
        pages.append(read_page(reader.get(link(pages[-1], "next"))))
    assert [seqs(each) for each in pages] == [[], [], [7]]
    exported = reader.get(f"/history/export?{query}&format=json")
    assert (exported["X-Is-Cut"], exported.json()["events"]) == ("true", [])
    back = read_page(reader.get(link(pages[-1], "prev")))
    assert seqs(back) == []
    assert 'rel="prev"' in back


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("kind=consumed", 4),
        ("kind=task_completed", 1),
        ("kind=consumed&kind=task_completed", 5),
        ("partition=7", 1),
        ("topic=t", 5),
        ("topic=u&partition=7", 0),
        ("task=7:1:0", 1),
        ("label=who=mara", 1),
        ("text=ARA", 1),
        ("cluster=main", 5),
        ("worker=nobody", 0),
        ("since=2026-03-14T03:00:01", 3),
        ("until=2026-03-14T03:00:01", 2),
    ],
)
def test_the_history_shows_the_events_that_match(
    reader: Client, make_run: MakeRun, query: str, count: int
) -> None:
    run = make_run()
    make_events(run, 4)
    task: dict[str, Any] = {"task_id": "7:1:0", "labels": {"who": "mara"}, "partition": 7}
    make_events(run, 1, kind="task_completed", **task)
    assert Event.objects.count() == 5
    assert len(seqs(read_page(reader.get(f"/history?{query}")))) == count


def test_what_failed_stands_out_in_the_history(
    client: Client, user: User, make_run: MakeRun
) -> None:
    make_events(make_run(), 1, kind="task_failed")
    make_events(make_run(), 1)
    user.groups.add(Group.objects.get_or_create(name="operator")[0])
    client.force_login(user)
    page = read_page(client.get("/history"))
    rows = page[page.index('id="events"') : page.index("<footer>")]
    assert rows.count("st s-failed") == rows.count("task_failed</span>") == 1
    assert '<th scope="row">consumed</th>' in rows
    assert "the newest 10,000 that fit" in page


@pytest.mark.parametrize("query", ["partition=x", "label=x", "since=soon", "older=1", "newer=_"])
def test_bad_filters_are_named(reader: Client, query: str) -> None:
    answer = reader.get(f"/history?{query}")
    assert answer.status_code == 400
    assert query.partition("=")[0].encode() in answer.content


NO_YEAR = "0001-01-01T00:00:00%2B23:59"


@pytest.mark.parametrize(
    "address",
    [
        f"/history?since={NO_YEAR}",
        f"/history?partition={'1' * 5000}",
        f"/api/v1/events?until={NO_YEAR}",
        f"/debug/databases?since={NO_YEAR}",
        f"/debug/databases?after={NO_YEAR}_00000000-0000-0000-0000-000000000000",
    ],
)
def test_what_no_database_can_look_for_is_named(reader: Client, address: str) -> None:
    assert reader.get(address).status_code in (400, 422)


def test_an_unknown_api_route_answers_with_a_problem_document(reader: Client) -> None:
    answer = reader.get("/api/v1/nothing")
    assert answer.status_code == 404
    assert answer["Content-Type"] == "application/problem+json"
    assert "/api/v1/dashboard" in reader.get("/api/v1/openapi.json").json()["paths"]
