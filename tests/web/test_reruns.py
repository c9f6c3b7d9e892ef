"""Reruns on the pages and by the API: numbers first, once, by operators, told in the audit."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone

from drakkar_site.accounts.models import AuditEntry
from recorder.models import Event, Run
from tests.support.reading import read_page
from workers.control_plane.leftovers import prune
from workers.models import RerunJob, RerunMessage

pytestmark = pytest.mark.django_db(transaction=True)
KEY = "0" * 32
TOPIC = "search-requests"
"""Of cluster ``main`` in the site's configuration."""


@pytest.fixture
def failed(make_run: Callable[..., Run]) -> UUID:
    """A run of ``main`` in which messages 0 to 2 of partition 0 failed by exit code 7."""
    run = make_run()
    now = timezone.now()
    told: dict[str, Any] = {"exit_code": 7, "attempt": 1, "labels": {"tenant": "acme"}}
    failure = {"data": {"failure": "exit", "detail": ""}}
    fate = {"data": {"fate": "skipped", "reason": "broken"}}
    for offset in range(3):
        place = {"topic": TOPIC, "partition": 0, "offset": offset, "run": run.id}
        at = now - timedelta(minutes=5 - offset)
        Event.objects.create(
            ts=at, seq=1 + 2 * offset, kind="task_failed", task_id=f"0:{offset}:0",
            **place, **told, **failure,
        )  # fmt: skip
        Event.objects.create(ts=at, seq=2 + 2 * offset, kind="message_completed", **place, **fate)
    return run.id


def numbers(page: str) -> dict[str, str]:
    found = re.findall(r'<dt class="num">([^<]*)</dt><dd>([^<]*)</dd>', page)
    return {name: count for count, name in found}


def post(client: Client, **asked: str) -> Any:
    form = {"cluster": "main", "failure": "exit", "key_of_form": KEY, "rate": "20"} | asked
    return client.post("/reruns/new", form)


def test_the_effect_is_shown_in_numbers_and_nothing_happens(
    operator: Client, failed: UUID, django_assert_max_num_queries: Any
) -> None:
    with django_assert_max_num_queries(20):
        page = read_page(operator.get("/reruns/new?cluster=main&failure=exit&since=1h"))
    assert numbers(page) == {"messages": "3", "failed tasks": "3", "failed by exit": "3"}
    assert "Run 3 messages again" in page
    assert not RerunJob.objects.exists()
    nothing = read_page(operator.get("/reruns/new?cluster=main&exit_code=9"))
    assert "Nothing to run again" in nothing


def test_a_rerun_is_asked_once_followed_and_cancelled(operator: Client, failed: UUID) -> None:
    asked = {"exit_code": "7", "tasks": "all", "reason": "mended in v12, token=abc"}
    where = post(operator, **asked)["Location"]
    assert post(operator, **asked)["Location"] == where
    job = RerunJob.objects.get()
    assert (job.actor, job.only_failed_tasks, job.is_new_identity, job.rate) == (
        "mara", False, False, 20.0,
    )  # fmt: skip
    assert job.filters["exit_code"] == "7"
    assert job.filters["until"]
    page = read_page(operator.get(where))
    assert "waits for the controller" in page
    assert "mended in v12, token=***" in page
    assert "failure=exit exit_code=7" in read_page(operator.get("/reruns"))
    RerunMessage.objects.create(
        job=job, cluster="main", topic=TOPIC, partition=0, offset=1, state="gone", detail="not held"
    )
    page = read_page(operator.get(where))
    assert numbers(page) == {"1": "1"} or "gone: not held" in page
    assert operator.post(f"{where}/cancel").status_code == 302
    job.refresh_from_db()
    assert (job.state, job.cancelled_by) == ("cancelled", "mara")
    told = list(AuditEntry.objects.order_by("id").values_list("target", flat=True))
    assert f"made={job.pk}" in told[0]
    assert "failure=exit exit_code=7" in told[0]


def test_what_is_wrong_is_said_on_the_page(operator: Client, failed: UUID) -> None:
    for asked, error in (
        ({"failure": "bad"}, "failure: expected one of exit"),
        ({"rate": "fast"}, "rate: expected a number, got fast"),
        ({"rate": "1e9"}, "rate: expected 0.1 to 1000"),
        ({"reason": "x" * 501}, "reason: expected at most 500 characters, got 501"),
        ({"key_of_form": "x"}, "key_of_form: expected the one of the form"),
        ({"cluster": "nowhere"}, "cluster: expected one that this site"),
        ({"cluster": ""}, "cluster: expected one, because a rerun needs"),
    ):
        answer = post(operator, **asked)
        assert answer.status_code == 400
        assert error in answer.context["error"]
    assert not RerunJob.objects.exists()


def test_a_viewer_looks_and_asks_for_nothing(client: Client, user: User, failed: UUID) -> None:
    client.force_login(user)
    page = read_page(client.get("/reruns/new?cluster=main&failure=exit"))
    assert "failed by exit" in page
    assert "messages again</button>" not in page
    assert post(client).status_code == 403
    assert client.post("/api/v1/reruns", {}, content_type="application/json").status_code == 403
    assert not RerunJob.objects.exists()


def test_the_api_previews_asks_once_and_cancels(operator: Client, failed: UUID) -> None:
    query = {"cluster": "main", "label": "tenant=acme", "since": "1h"}
    shown = operator.get("/api/v1/reruns/preview", query).json()
    assert (shown["messages"], shown["by_failure"], shown["is_cut"]) == (3, {"exit": 3}, False)
    assert [match["offset"] for match in shown["first"]] == [0, 1, 2]
    body = json.dumps(query | {"key_of_form": "night", "rate": 5, "reason": "v12"})
    first, second = (
        operator.post("/api/v1/reruns", body, content_type="application/json") for _ in range(2)
    )
    assert (first.status_code, first.json()["id"]) == (202, second.json()["id"])
    assert first.json()["reason"] == "v12"
    where = f"/api/v1/reruns/{first.json()['id']}"
    assert operator.get(where).json()["counts"] == {}
    assert operator.post(f"{where}/cancel").json()["state"] == "cancelled"
    assert len(operator.get("/api/v1/reruns?state=cancelled").json()["reruns"]) == 1
    bad = operator.get("/api/v1/reruns/preview", {"cluster": "main", "since": "soon"})
    assert (bad.status_code, "since: expected a time" in bad.json()["detail"]) == (422, True)


def test_a_rerun_stays_as_long_as_the_history_of_its_failures(db: None) -> None:
    for age in (20, 40):
        job = RerunJob.objects.create(
            id=uuid4(), key=f"{age}", cluster="main", rate=1, actor="m", state="done"
        )
        RerunMessage.objects.create(job=job, cluster="main", topic="t", partition=0, offset=age)
        RerunJob.objects.filter(pk=job.pk).update(created_at=timezone.now() - timedelta(days=age))
    prune(30, 60, (), timezone.now())
    assert RerunJob.objects.count() == 2
    prune(30, 7, (), timezone.now())
    assert list(RerunMessage.objects.values_list("offset", flat=True)) == [20]
    assert list(RerunJob.objects.values_list("key", flat=True)) == ["20"]
