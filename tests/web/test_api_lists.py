"""The API's lists: every resource that is promised is there, and says what its page says."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.auth.models import User
from django.test import Client

from drakkar_site.api import api
from recorder.models import ExportJob
from tests.web.conftest import START, MakeRun, make_events
from workers.models import ControlRequest, StandingPause

pytestmark = pytest.mark.django_db
RESOURCES = {
    "dashboard",
    "workers",
    "partitions",
    "sinks",
    "events",
    "tasks",
    "trace",
    "dead-letters",
    "exports",
    "metrics",
    "control",
    "pauses",
    "reruns",
    "failures",
    "trends",
    "versions",
    "deployments",
    "live",
}
"""What the specification promises under ``/api/v1/``, written by hand."""


@pytest.fixture
def reader(client: Client, user: User) -> Client:
    client.force_login(user)
    return client


def told(reader: Client, path: str, **query: Any) -> Any:
    answer = reader.get(f"/api/v1/{path}", query)
    assert answer.status_code == 200, answer.content
    return answer.json()


def test_the_document_has_every_promised_resource() -> None:
    paths = api.get_openapi_schema()["paths"]
    assert {path.split("/")[3] for path, routes in paths.items() if "get" in routes} == RESOURCES


def test_workers_live_and_ended(reader: Client, make_run: MakeRun) -> None:
    make_run(state="stopped", counters={"consumed": 5, "tasks_retried": 1})
    run = make_run(counters={"consumed": 2}, pool={"slots": 4, "busy": 1, "waiting": 0})
    make_run(worker="worker-2", state="lost")
    first, second = told(reader, "workers")["workers"]
    assert (first["name"], first["run"], first["is_live"]) == ("worker-1", str(run.id), True)
    assert (first["consumed"], first["tasks_failed"], first["rss_bytes"]) == (7, None, None)
    assert first["pool"] == {"slots": 4, "busy": 1, "waiting": 0}
    assert (second["state"], second["is_live"], second["pool"]) == ("lost", False, None)
    assert [w["name"] for w in told(reader, "workers", worker="worker-2")["workers"]] == [
        "worker-2"
    ]


def test_partitions_with_and_without_an_owner(reader: Client, make_run: MakeRun) -> None:
    held = {"topic": "t", "partition": 3, "queue": 2, "lag": 7, "state": "running", "epoch": 4}
    held |= {"blocker": {"offset": 5}}
    left = {"topic": "t", "partition": 1, "queue": 2, "lag": 7, "state": "running"}
    make_run(partitions=[held])
    make_run(worker="worker-2", state="lost", partitions=[left])
    orphan, owned = told(reader, "partitions")["partitions"]
    assert (owned["owner"], owned["lag"], owned["epoch"]) == ("worker-1", 7, 4)
    assert (owned["committed"], owned["last_owner"]) == (None, None)
    assert owned["blocker"] == {
        "offset": 5, "task_id": None, "age_seconds": None, "waits_for": None
    }  # fmt: skip

    assert (orphan["partition"], orphan["owner"], orphan["last_owner"]) == (1, None, "worker-2")
    assert (orphan["lag"], orphan["state"], orphan["queue"]) == (None, None, None)
    assert told(reader, "partitions", cluster="other") == {"partitions": []}


def test_sinks_over_runs_and_at_each_worker(reader: Client, make_run: MakeRun) -> None:
    sink = {"name": "out", "kind": "kafka", "delivered": 3, "errors": 1, "queue_entries": 9}
    make_run(state="stopped", sinks=[sink])
    make_run(sinks=[sink | {"breaker": "open", "last_error": "no", "last_error_at": 60.0}])
    (found,) = told(reader, "sinks")["sinks"]
    assert (found["name"], found["delivered"], found["errors"]) == ("out", 6, 2)
    assert (found["queue_entries"], found["queue_bytes"], found["p95_ms"]) == (9, None, None)
    assert (found["last_error"], found["last_error_at"]) == ("no", "1970-01-01T00:01:00Z")
    (line,) = found["workers"]
    assert (line["worker"], line["breaker"], line["delivered"]) == ("worker-1", "open", 3)
    assert line["retries"] is None


def test_pauses_that_stand_page_by_page(reader: Client) -> None:
    request = uuid4()
    for n in range(52):
        StandingPause.objects.create(
            cluster="main",
            subject="key" if n else "cluster",
            name=f"k{n}" if n else "",
            actor="mara",
            since=START + timedelta(seconds=n),
            request=request,
        )
    StandingPause.objects.create(
        cluster="other", subject="group", name="t", actor="mara", request=request
    )
    first = told(reader, "pauses", cluster="main")
    assert [each["name"] for each in first["pauses"]] == [f"k{n}" for n in range(51, 1, -1)]
    rest = told(reader, "pauses", cluster="main", older=first["older"])
    assert [(each["subject"], each["name"]) for each in rest["pauses"]] == [
        ("key", "k1"),
        ("cluster", ""),
    ]
    assert rest["older"] is None
    assert (rest["pauses"][0]["actor"], rest["pauses"][0]["request"]) == ("mara", str(request))
    assert told(reader, "pauses")["pauses"][0]["cluster"] == "other"
    bad = reader.get("/api/v1/pauses", {"older": "yesterday"})
    assert bad.status_code == 422
    assert "older: not a place in the list" in bad.json()["detail"]


def test_metrics_of_what_lives(reader: Client, make_run: MakeRun) -> None:
    samples = [["up_total", {"a": "b"}, 2.0], ["up_total", {}, "inf"]]
    up = {"name": "up", "type": "counter", "help": "Ups.", "samples": samples}
    down = {"name": "down", "type": "gauge", "help": "", "samples": []}
    make_run(metrics={"families": [up, down], "left_out": 1})
    make_run(worker="worker-2")
    make_run(worker="worker-3", state="lost", metrics={"families": [up], "left_out": 0})
    known, unknown = told(reader, "metrics", name="up")["runs"]
    (family,) = known["families"]
    assert family["samples"][0] == {"name": "up_total", "labels": {"a": "b"}, "value": 2.0}
    assert (family["samples"][1]["value"], known["left_out"]) == ("inf", 1)
    assert (unknown["worker"], unknown["families"], unknown["left_out"]) == ("worker-2", None, None)
    assert len(told(reader, "metrics")["runs"][0]["families"]) == 2


def test_events_page_by_page_to_the_end(reader: Client, make_run: MakeRun) -> None:
    make_events(make_run(), 120)
    found: list[int] = []
    older: str | None = ""
    while older is not None:
        answer = told(reader, "events", older=older, kind="consumed")
        found, older = found + [each["seq"] for each in answer["events"]], answer["older"]
    assert found == list(range(120, 0, -1))
    back = told(reader, "events", newer=answer["newer"])["events"]
    assert [each["seq"] for each in back] == list(range(70, 20, -1))


def test_events_by_the_filters_of_the_history(reader: Client, make_run: MakeRun) -> None:
    first, second = make_run(), make_run(worker="worker-2")
    make_events(first, 2, labels={"tenant": "a"})
    make_events(second, 3, kind="committed", partition=7)
    (newest, *_) = told(reader, "events", worker="worker-2")["events"]
    assert (newest["cluster"], newest["worker"], newest["seq"]) == ("main", "worker-2", 3)
    for query, count in (
        ({"kind": ["consumed", "committed"]}, 5),
        ({"kind": "committed"}, 3),
        ({"partition": 7}, 3),
        ({"label": "tenant=a"}, 2),
        ({"cluster": "other"}, 0),
        ({"since": "2026-03-14T03:00:01Z"}, 3),
        ({"until": "2026-03-14T03:00:01"}, 2),
        ({"task": "none"}, 0),
        ({"text": "tenant"}, 2),
    ):
        assert len(told(reader, "events", **query)["events"]) == count, query


def all_ids(reader: Client, path: str, name: str) -> list[str]:
    found: list[str] = []
    older: str | None = ""
    while older is not None:
        answer = told(reader, path, older=older)
        assert len(answer[name]) <= 50
        found, older = found + [each["id"] for each in answer[name]], answer["older"]
    return found


def test_all_requests_page_by_page(reader: Client) -> None:
    rows = [
        ControlRequest(key=str(n), cluster="main", worker="worker-1", action="stop", actor="mara")
        for n in range(120)
    ]
    ControlRequest.objects.bulk_create(rows)  # all of one moment
    found = all_ids(reader, "control", "requests")
    assert sorted(found) == sorted(str(row.id) for row in rows)
    assert told(reader, "control", cluster="other") == {"requests": [], "older": None}


def test_all_exports_page_by_page(client: Client) -> None:
    client.force_login(User.objects.create_superuser("root"))
    rows = [
        ExportJob(id=uuid4(), name=f"{n}", format="csv", created_at=at, progress_at=at)
        for n in range(120)
        for at in [START + timedelta(seconds=n // 2)]
    ]
    ExportJob.objects.bulk_create(rows)
    found = all_ids(client, "exports", "exports")
    assert sorted(found) == sorted(str(row.id) for row in rows)
    assert found[0] in {str(row.id) for row in rows[-2:]}
    refused = client.get("/api/v1/exports?older=x")
    assert (refused.status_code, refused.json()["detail"][:6]) == (422, "older:")


@pytest.mark.parametrize(
    "path",
    [
        "events?kind=x",
        "events?label=x",
        "events?since=soon",
        "events?partition=-1",
        "events?older=x",
        "events?newer=0001-01-01T00:00%2B20:00_1",
        f"events?text={'x' * 1001}",
        "control?older=x",
        f"control?cluster={'x' * 64}",
        f"workers?cluster={'x' * 64}",
        f"partitions?worker={'x' * 256}",
        f"sinks?cluster={'x' * 64}",
        f"metrics?name={'x' * 256}",
    ],
)
def test_what_is_not_valid_is_named(reader: Client, path: str) -> None:
    answer = reader.get(f"/api/v1/{path}")
    name = path.partition("?")[2].partition("=")[0]
    assert (answer.status_code, answer["Content-Type"]) == (422, "application/problem+json")
    assert f"{name}:" in answer.json()["detail"]
