"""The pages about workers, partitions and sinks."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any
from urllib.parse import quote_plus

import pytest
from django.contrib.auth.models import User
from django.test import Client
from pytest_django import DjangoAssertNumQueries, Settings

from recorder.models import RunState
from tests.browser.sample import TOPIC, fleet
from tests.web.conftest import MakeRun, make_events
from workers.config import LinksConfig

pytestmark = pytest.mark.django_db
MAX_QUERIES = 17
"""Two of them, the sums over past runs, are asked anew only after another run ended."""
PARTITION = f"/partitions/main/{TOPIC}/7"


@pytest.fixture
def reader(client: Client, user: User) -> Client:
    client.force_login(user)
    return client


def text_of(client: Client, path: str) -> str:
    """The page without its markup."""
    page = client.get(path).content.decode()
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page[page.index("<main") :]))


def row(**figures: Any) -> dict[str, Any]:
    return {"topic": "t", "partition": 0, "state": "running", **figures}


@pytest.mark.parametrize(
    "path",
    ["/", "/workers", "/partitions", PARTITION, PARTITION + "?events=all", "/sinks", "/live"],
)
def test_a_page_of_a_fleet_asks_little(
    reader: Client, django_assert_max_num_queries: DjangoAssertNumQueries, path: str
) -> None:
    fleet(seconds=20)
    with django_assert_max_num_queries(MAX_QUERIES):
        assert reader.get(path).status_code == 200


@pytest.mark.parametrize("path", ["/", "/workers", "/partitions", "/sinks"])
def test_pages_before_anything_ran(reader: Client, path: str) -> None:
    page = reader.get(path)
    assert page.status_code == 200
    assert b'class="empty"' in page.content


def test_a_partition_nobody_ever_had(reader: Client) -> None:
    answer = reader.get("/partitions/main/t/0")
    assert answer.status_code == 404
    assert b"No live worker has it" in answer.content


def test_what_is_unknown_is_not_zero(reader: Client, make_run: MakeRun) -> None:
    make_run(partitions=[row(partition=5)], pool={}, sinks=[{"name": "out", "kind": "kafka"}])
    assert "unknown / unknown" in text_of(reader, "/workers")
    assert " 0 " not in text_of(reader, "/partitions")
    assert "unknown" in text_of(reader, "/partitions/main/t/5")
    assert text_of(reader, "/sinks").count("unknown") >= 8
    assert "<b>0</b>" not in reader.get("/").content.decode().split("p-parts")[1]


def test_the_age_is_that_of_the_oldest_beat(reader: Client, make_run: MakeRun) -> None:
    make_run("a")
    late = make_run("b")
    RunState.objects.filter(run=late).update(beat_at=late.started_at.replace(year=2025))
    ages = re.findall(r'data-age="([0-9.]+)"', reader.get("/").content.decode())
    assert min(map(float, ages)) > 1000.0


def test_a_worker_with_another_configuration(reader: Client, make_run: MakeRun) -> None:
    for number in range(3):
        run = make_run(f"worker-{number}")
        run.config_hash = "other" if number == 1 else "same"
        run.save()
    assert text_of(reader, "/workers").count("differs") == 1


def test_limits_are_shown_with_who_holds_them(reader: Client, make_run: MakeRun) -> None:
    for worker, cgroups in (("a", "tasks: memory, pids, cpu"), ("b", "none: no cpu, no cgroup")):
        run = make_run(worker)
        run.config = {"executor": {"limits": {"memory_bytes": 4096, "cpu_quota": 0.5}}}
        run.cgroups = cgroups
        run.save()
    page = text_of(reader, "/workers")
    assert "memory_bytes 4096, cpu_quota 0.5; cgroups of tasks: memory, pids, cpu" in page
    assert "cpu_quota 0.5 (not in force); cgroups of tasks: none: no cpu, no cgroup" in page


def test_partitions_by_state_text_and_order(reader: Client, make_run: MakeRun) -> None:
    rows = [row(partition=n, lag=n % 7, state="paused" if n == 3 else "running") for n in range(60)]
    make_run(partitions=rows)

    def shown(query: str) -> list[int]:
        page = reader.get(f"/partitions?{query}").content.decode()
        return [int(n) for n in re.findall(r'data-key="main/t/(\d+)"', page)]

    assert shown("") == list(range(50))
    assert shown("after=main/t/49") == list(range(50, 60))
    assert shown("sort=lag&after=main/t/6")[0] == 13
    more = re.search(r'rel="next" href="([^"]+)"', reader.get("/partitions").content.decode())
    assert more is not None
    assert shown(more[1].removeprefix("?")) == list(range(50, 60))
    assert shown("state=paused") == [3]
    assert shown("text=t/59") == [59]
    assert shown("sort=lag")[:3] == [6, 13, 20]
    assert shown("after=x&sort=nonsense") == list(range(50))


def test_the_blocker_ages_with_its_beat(reader: Client, make_run: MakeRun) -> None:
    blocker = {"offset": 5, "task_id": "0:5:0", "age_seconds": 100.0}
    make_run(partitions=[row(blocker=blocker, strip=[[1, False], [3, True]])])
    page = text_of(reader, "/partitions/main/t/0")
    assert "1 min 40 s" in page
    assert "4 above the watermark: 3 with fate, 1 without" in page


def test_the_blocker_tells_the_key_that_it_waits_for(reader: Client, make_run: MakeRun) -> None:
    blocker = {"offset": 5, "age_seconds": 1.0, "waits_for": "key <k>, paused"}
    make_run(partitions=[row(blocker=blocker)])
    for page in ("/partitions/main/t/0", "/partitions"):
        assert "key &lt;k&gt;, paused" in reader.get(page).content.decode()


def test_the_dashboard_tells_how_many_tasks_wait_for_their_key_and_group(
    reader: Client, make_run: MakeRun
) -> None:
    pool = {"slots": 4, "busy": 4, "waiting": 9, "waiting_for_group": 3, "waiting_for_key": 5}
    make_run(pool=pool)
    page = text_of(reader, "/")
    assert "9 tasks wait, 3 of them for their group; 5 more for their key" in page


def test_no_page_is_a_dead_end(reader: Client, make_run: MakeRun) -> None:
    make_run("worker-1", state="stopped")
    make_run("worker-1", partitions=[row()])
    topics = "/topics?cluster=main&amp;of=main&amp;topic=t&amp;partition=0"
    assert f'href="{topics}">Messages' in reader.get("/partitions/main/t/0").content.decode()
    workers = reader.get("/workers").content.decode()
    earlier = workers[workers.index("Earlier runs") :]
    assert 'href="/workers/main/worker-1"' in earlier
    page = reader.get("/workers/main/worker-1").content.decode()
    assert 'href="/history?cluster=main&amp;worker=worker-1"' in page


def test_a_partition_shows_no_other_topics_events(reader: Client, make_run: MakeRun) -> None:
    run = make_run(partitions=[row(partition=0)])
    make_events(run, 1, kind="parked", topic="another")
    page = reader.get("/partitions/main/t/0").content.decode()
    assert "parked" not in page[page.index('id="h-events"') :]
    assert 'href="/history?cluster=main&amp;topic=t&amp;partition=0"' in page


def test_figures_say_what_they_count(reader: Client, make_run: MakeRun) -> None:
    make_run()
    assert "Counts: sums over all runs." in text_of(reader, "/")
    assert "every 10 s: manage.py" in text_of(reader, "/debug")


def test_a_partition_names_its_owners_over_time(reader: Client, make_run: MakeRun) -> None:
    old, new = make_run("old", state="stopped"), make_run("new", partitions=[row(partition=0)])
    make_events(old, 1, kind="assigned", data={"epoch": 1})
    make_events(old, 2, first=2, kind="revoked", data={"epoch": 1, "dropped_messages": 4})
    make_events(new, 3, first=3, kind="assigned", data={"epoch": 7})
    make_events(new, 4, first=4, kind="consumed")
    page = text_of(reader, "/partitions/main/t/0")
    owners = page[page.index("Owners over time") : page.index("Events")]
    assert owners.index("new") < owners.index("has it") < owners.index("old")
    assert "revoked" in owners
    assert "consumed" not in page
    assert "consumed" in text_of(reader, "/partitions/main/t/0?events=all")


def test_what_is_wrong_says_what_to_do(reader: Client, make_run: MakeRun) -> None:
    blocker = {"offset": 5, "task_id": "0:5:0", "age_seconds": 100.0}
    older = {"offset": 9, "task_id": "1:9:0", "age_seconds": 200.0}
    rows = [row(blocker=blocker, parked={"sink": "full"}), row(partition=1, blocker=older)]
    make_run(partitions=rows)
    page = text_of(reader, "/")
    assert "commit blocked by 1:9:0" in page
    assert "1 more of its partitions" in page
    assert "Open partition" in page
    assert "Controller: no answer" in page
    make_run("controller", "_control")
    assert "Controller: no answer" not in text_of(reader, "/")


def test_without_a_worker_the_dashboard_says_since_when(reader: Client, make_run: MakeRun) -> None:
    make_run(state="stopped")
    assert "no worker since" in text_of(reader, "/")


def test_links_are_filled_in(reader: Client, make_run: MakeRun, settings: Settings) -> None:
    custom = ({"name": "Runbook", "url": "http://run/{cluster}"},)
    links = LinksConfig(prometheus="http://prom/", kafka_ui="http://kafka", custom=custom)
    site = settings.DRAKKAR_STATE.site.model_copy(update={"links": links})
    settings.DRAKKAR_STATE = replace(settings.DRAKKAR_STATE, site=site)
    make_run()
    every = reader.get("/").content.decode()
    assert 'href="http://kafka"' in every
    assert "Runbook" not in every
    chosen = reader.get("/?cluster=main").content.decode()
    assert 'href="http://run/main"' in chosen
    expression = quote_plus('sum(drakkar_consumer_lag{cluster="main"})')
    assert f"http://prom/graph?g0.expr={expression}" in chosen
    expression = quote_plus('sum(rate(drakkar_executor_tasks_total{outcome="failed"}[5m]))')
    assert f"http://prom/graph?g0.expr={expression}" in every


def test_sinks_are_summed_over_runs(reader: Client, make_run: MakeRun) -> None:
    counts = [0] * 43
    counts[10] = 1
    sink = {"name": "out", "kind": "kafka", "delivered": 3, "errors": 1, "latency_counts": counts}
    make_run(state="stopped", sinks=[sink | {"queue_entries": 9}])
    make_run(sinks=[sink | {"queue_entries": 2, "breaker": "open", "next_probe_seconds": 8.0}])
    page = text_of(reader, "/sinks")
    assert "open, probe in" in page
    cells = page[page.index("Last error") :].split()
    assert cells[cells.index("s") + 1 :][:4] == ["6", "2", "unknown", "2"]


def test_partitions_of_several_clusters_are_told_apart(reader: Client, make_run: MakeRun) -> None:
    make_run("a", cluster="main", partitions=[row(lag=5)])
    assert "<h3>" not in reader.get("/").content.decode()
    assert "0 main" not in text_of(reader, "/partitions")
    make_run("b", cluster="fast", partitions=[row(lag=7), row(topic="u", lag=8)])
    assert re.findall("<h3>(.*?)</h3>", reader.get("/").content.decode()) == [
        "fast: t",
        "fast: u",
        "main",
    ]
    listed = text_of(reader, "/partitions")
    assert all(f" 0 {name} " in listed for name in ("fast: t", "fast: u", "main"))


def test_the_dashboard_says_of_a_sink_what_the_page_of_sinks_says(
    reader: Client, make_run: MakeRun
) -> None:
    out = {"name": "out", "kind": "kafka", "breaker": "closed", "is_paused": True}
    for worker in ("b", "a"):
        make_run(worker, sinks=[out, {**out, "name": "more", "is_paused": False}])
    shown = [
        (each["name"], each["worker"], each["word"]) for each in reader.get("/").context["sinks"]
    ]
    more, paused = [("more", w, "closed") for w in "ab"], [("out", w, "paused") for w in "ab"]
    assert shown == more + paused
    lines = [each for sink in reader.get("/sinks").context["rows"] for each in sink["workers"]]
    assert [(each["name"], each["worker"], each["word"]) for each in lines] == shown


def test_a_partition_shows_no_event_of_another_topic(reader: Client, make_run: MakeRun) -> None:
    make_events(make_run(), 1, kind="parked", topic="other", partition=7)
    assert reader.get("/partitions/main/other/7").context["events"]
    assert reader.get("/partitions/main/t/7").status_code == 404
