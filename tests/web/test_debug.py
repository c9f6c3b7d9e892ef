"""The debug page: metrics as the processes recorded them, by a real heartbeat."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from domain.beat import Beat, CounterBeat
from recorder.models import RunState, RunTrack
from tests.contract.test_control import described
from tests.support.reading import read_page
from tests.web.conftest import MakeRun
from workers.runtime.heartbeat import Heartbeat
from workers.runtime.metric_snapshot import MAX_SAMPLES, metric_snapshot

pytestmark = pytest.mark.django_db


@pytest.fixture
def reader(client: Client, user: User) -> Client:
    client.force_login(user)
    return client


def recorded(name: str = "drakkar_messages", **labels: str) -> dict[str, Any] | None:
    registry = CollectorRegistry()
    names = ["cluster", "worker", *labels]
    given = {"cluster": "main", "worker": "w", **labels}
    Counter(name, "How many <b>.", names, registry=registry).labels(**given).inc(1234567)
    return metric_snapshot(registry)


def test_a_snapshot_is_what_is_exported_without_what_the_run_says() -> None:
    registry = CollectorRegistry()
    Gauge("depth", "Depth.", ["worker", "lane"], registry=registry).labels("w", "a").set(2.5)
    Gauge("odd", "Odd.", registry=registry).set(float("nan"))
    Histogram("took", "Took.", buckets=(1.0,), registry=registry).observe(0.5)
    found = metric_snapshot(registry)
    assert found is not None
    families = {family["name"]: family for family in found["families"]}
    assert families["depth"]["samples"] == [["depth", {"lane": "a"}, 2.5]]
    assert families["odd"]["samples"] == [["odd", {}, "nan"]]
    names = [name for name, _, _ in families["took"]["samples"]]
    assert names == ["took_bucket", "took_bucket", "took_count", "took_sum"]


def test_a_snapshot_is_bounded_and_survives_a_metric_that_raises() -> None:
    registry = CollectorRegistry()
    many = Gauge("many", "Many.", ["n"], registry=registry)
    for number in range(MAX_SAMPLES + 7):
        many.labels(str(number)).set(1)
    found = metric_snapshot(registry)
    assert found is not None
    assert (len(found["families"][0]["samples"]), found["left_out"]) == (MAX_SAMPLES, 7)

    def broken() -> float:
        raise RuntimeError("no figure")

    Gauge("broken", "Broken.", registry=registry).set_function(broken)
    assert metric_snapshot(registry) is None


@pytest.mark.django_db(transaction=True)
def test_the_heartbeat_records_them(make_run: MakeRun) -> None:
    run = make_run()
    beat = Beat(state="stopped", rss_bytes=1, counters=CounterBeat(consumed=7))
    heartbeat = Heartbeat(described(run), snapshot=lambda: beat, metrics=recorded)
    heartbeat.start()
    assert heartbeat.close(10.0)
    assert RunState.objects.get(run=run).metrics == recorded()
    (kept,) = RunTrack.objects.get(run=run).samples
    assert kept[1:] == [[7, None, None, None, None], None, None, 0, None, None]


def test_metrics_of_all_live_processes(
    reader: Client, make_run: MakeRun, django_assert_max_num_queries: Any
) -> None:
    make_run("worker-1", metrics=recorded())
    make_run("worker-2", metrics=recorded())
    make_run("controller", cluster="_control", metrics=recorded("drakkar_control_job_failures"))
    make_run("worker-3", metrics=recorded("mine", source="user"))
    make_run("worker-4", metrics=recorded("ended"), state="stopped")
    make_run("worker-5")
    with django_assert_max_num_queries(15):
        page = reader.get("/debug")
    text = read_page(page)
    found = {family.name: family for family in page.context["families"]}
    assert sorted(found) == ["drakkar_control_job_failures", "drakkar_messages", "mine"]
    assert found["drakkar_messages"].total == 2 * 1234567
    assert "2,469,134" in text
    assert "How many &lt;b&gt;." in text
    assert "<b>1</b> recorded none yet" in text
    assert "/debug/databases" in text
    assert 'action="/trace"' in text
    assert "refresh.js" in text
    metrics = text[text.index('id="p-metrics"') :]
    assert 'class="age" data-every="10"' in metrics[: metrics.index("</details>")]


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [
        ({"source": "user"}, ["mine"]),
        ({"source": "framework"}, ["drakkar_messages"]),
        ({"text": "MAIN/WORKER-2"}, ["mine"]),
        ({"text": "nothing like it"}, []),
        ({"cluster": "main", "worker": "worker-1"}, ["drakkar_messages"]),
    ],
)
def test_only_metrics_that_match_are_shown(
    reader: Client, make_run: MakeRun, asked: dict[str, str], wanted: list[str]
) -> None:
    make_run("worker-1", metrics=recorded())
    make_run("worker-2", metrics=recorded("mine", source="user"))
    page = reader.get("/debug", asked)
    assert [family.name for family in page.context["families"]] == wanted


def test_a_bad_source_is_named(reader: Client) -> None:
    page = reader.get("/debug", {"source": "elsewhere"})
    assert page.status_code == 400
    assert "source: expected one of framework, user, got elsewhere" in page.context["error"]
