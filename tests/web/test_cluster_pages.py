"""Actions on a whole cluster: in numbers first, kept until they end, shown where they hold."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from recorder.models import RunState
from tests.support.reading import read_page
from tests.web.conftest import MakeRun
from tests.web.test_control_pages import KEY, figures_of
from workers.models import ControlRequest, StandingPause

pytestmark = pytest.mark.django_db
CLUSTER = {"cluster": "main"}


def task(number: int, label: str, seconds: float, partition: int = 3) -> dict[str, Any]:
    started = timezone.now().timestamp() - seconds
    return {
        "task_id": f"{partition}:{number}:0", "topic": "t", "partition": partition, "slot": 0,
        "labels": {"kind": label}, "started_at": started,
    }  # fmt: skip


@pytest.fixture
def fleet_of_two(make_run: MakeRun) -> None:
    first = [task(1, "slow", 500), task(2, "slow", 1), task(3, "quick", 500)]
    row = {"topic": "t", "partition": 3, "pending": 5, "lag": 40}
    make_run(pool={"running": first, "waiting": 4}, partitions=[row])
    make_run("worker-2", pool={"running": [task(4, "slow", 1, 5)], "waiting": 6}, partitions=[
        {**row, "partition": 5}])  # fmt: skip
    make_run("worker-3", state="lost", pool={"running": [task(9, "slow", 1)], "waiting": 9})


@pytest.mark.usefixtures("fleet_of_two")
@pytest.mark.parametrize(
    ("filled", "count", "waiting"),
    [
        ({"label": "kind=slow"}, "3", "10"),
        ({"label": "kind=slow", "running_seconds": "60"}, "1", None),
        ({"partition": "5"}, "1", "10"),
        ({"label": "kind=none"}, "0", "10"),
    ],
)
def test_what_would_be_cancelled_is_counted_over_the_live_workers(
    operator: Client, filled: dict[str, str], count: str, waiting: str | None
) -> None:
    asked = {"action": "cancel_matching", **CLUSTER}
    first = read_page(operator.get("/control/new", asked))
    assert figures_of(first) == {"live workers": "2"}
    assert 'method="post" action="/control/new' not in first
    page = read_page(operator.get("/control/new", {**asked, **filled}))
    assert 'method="post" action="/control/new' in page
    figures = figures_of(page)
    assert figures["running tasks that match"] == count
    assert figures.get("tasks that wait, of which those that match end too") == waiting
    sent = dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', page))
    where = operator.post("/control/new", {**sent, "decision": "skip"})["Location"]
    shown = read_page(operator.get(where))
    assert "asked of 2 workers" in shown
    assert "worker-1" in shown
    assert "worker-2" in shown
    assert "data-waiting" in shown
    ControlRequest.objects.exclude(worker="").update(state="done", detail="7 cancelled")
    shown = read_page(operator.get(where))
    assert shown.count("7 cancelled") == 2
    assert "data-waiting" not in shown


@pytest.mark.usefixtures("fleet_of_two")
@pytest.mark.parametrize(
    ("filled", "told"),
    [
        ({"label": "slow"}, "label: "),
        ({"running_seconds": "-1"}, "running_seconds: "),
        ({"partition": "x"}, "partition: "),
        ({"group": "g" * 256}, "group: "),
        ({}, "which: expected at least one of label, group"),
    ],
)
def test_what_says_nothing_or_nonsense_is_refused(
    operator: Client, filled: dict[str, str], told: str
) -> None:
    sent = {"action": "cancel_matching", "decision": "skip", "key": KEY, **CLUSTER, **filled}
    answer = operator.post("/control/new", sent)
    assert answer.status_code == 400
    assert told in read_page(answer)
    assert not ControlRequest.objects.exists()


@pytest.mark.usefixtures("fleet_of_two")
def test_a_paused_cluster_is_shown_where_it_holds_and_resumed_there(operator: Client) -> None:
    page = read_page(operator.get("/control/new", {"action": "pause_cluster", **CLUSTER}))
    assert figures_of(page) == {
        "live workers": "2",
        "partitions": "2",
        "messages without a fate": "10",
        "messages of lag": "80",
    }
    sent = dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', page))
    where = operator.post("/control/new", sent)["Location"]
    assert "rest with their next heartbeat" in read_page(operator.get(where))
    pause = StandingPause.objects.get()
    assert (pause.cluster, pause.subject, pause.actor) == ("main", "cluster", "mara")
    for path in ("/", "/workers", "/partitions", "/partitions/main/t/3"):
        shown = read_page(operator.get(path))
        assert re.search("Cluster main(:| is) paused on all workers", shown), path
        assert "action=resume_cluster" in shown, path
    RunState.objects.update(state="paused")
    assert "Its intake is paused" not in read_page(operator.get("/"))
    assert "paused on all" not in read_page(operator.get("/workers?cluster=other"))
    sent = {"action": "resume_cluster", "key": KEY, **CLUSTER}
    operator.post("/control/new", sent)
    assert not StandingPause.objects.exists()
    dashboard = read_page(operator.get("/"))
    assert "paused on all" not in dashboard
    assert "Its intake is paused" in dashboard


def test_a_cluster_of_which_nothing_lives_cancels_nothing_and_may_be_paused(
    operator: Client, make_run: MakeRun
) -> None:
    make_run(state="stopped")
    sent = {"key": KEY, **CLUSTER, "decision": "skip", "partition": "1"}
    refused = operator.post("/control/new", {"action": "cancel_matching", **sent})
    assert refused.status_code == 409
    assert "no worker of main lives" in read_page(refused)
    taken = operator.post("/control/new", {"action": "pause_cluster", "key": KEY, **CLUSTER})
    assert taken.status_code == 302
    nowhere = {"action": "pause_cluster", "key": "1" * 32, "cluster": "nowhere"}
    assert operator.post("/control/new", nowhere).status_code == 409


def test_a_group_s_pause_says_whom_it_holds_back_and_is_resumed_from_the_dashboard(
    operator: Client, make_run: MakeRun
) -> None:
    running = [{**task(1, "x", 5), "group": "t1"}, {**task(2, "x", 5), "group": "t1"},
               {**task(3, "x", 5, 8), "group": "t2"}]  # fmt: skip
    make_run(pool={"running": running, "waiting": 7, "waiting_for_key": 2})
    asked = {"action": "pause_group", **CLUSTER}
    first = read_page(operator.get("/control/new", asked))
    assert figures_of(first) == {"live workers": "1"}
    page = read_page(operator.get("/control/new", {**asked, "group": "t1"}))
    assert figures_of(page) == {
        "tasks of it that run, and go on": "2",
        "partitions of these, which its messages hold back": "1",
        "tasks that wait for a slot, those of it among them": "7",
        "tasks that wait for their key, those of it among them": "2",
        "live workers": "1",
    }
    assert "takes nothing in for any group" in page
    sent = dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', page))
    operator.post("/control/new", sent)
    assert StandingPause.objects.get().name == "t1"
    shown = read_page(operator.get("/"))
    assert "Group t1 of cluster main: paused on all workers" in shown
    link = next(url for url in re.findall(r'href="([^"]*resume_group[^"]*)"', shown))
    page = read_page(operator.get(link.replace("&amp;", "&")))
    sent = dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', page))
    operator.post("/control/new", sent)
    assert not StandingPause.objects.exists()
