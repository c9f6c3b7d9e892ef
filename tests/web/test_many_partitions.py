"""Pauses and resumes of many partitions at once: in numbers first, then one request each."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

from tests.web.conftest import MakeRun
from tests.web.test_control_pages import figures_of
from workers.models import ControlRequest

pytestmark = pytest.mark.django_db
ASK = "/control/partitions"


def row(partition: int, state: str = "running", **figures: Any) -> dict[str, Any]:
    return {"topic": "t", "partition": partition, "state": state, "lag": 10, "pending": 2,
            "queue": 1, **figures}  # fmt: skip


@pytest.fixture
def fleet(make_run: MakeRun) -> None:
    """Five partitions of two workers, one of them paused; and another cluster's."""
    make_run(partitions=[row(0), row(1), row(2, "paused", is_paused=True)])
    make_run("worker-2", partitions=[row(3, lag=None), row(4)])
    make_run("worker-3", cluster="other", partitions=[row(0)])


def sent_of(page: str) -> dict[str, Any]:
    """What the form of a preview sends."""
    form = page[page.index('<form method="post" action="/control/partitions') :]
    found: dict[str, Any] = {}
    for name, value in re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', form):
        found.setdefault(name, []).append(value)
    return found


@pytest.mark.usefixtures("fleet")
def test_chosen_partitions_are_paused_by_a_request_each(operator: Client) -> None:
    shown = operator.get("/partitions").content.decode()
    assert 'name="place" value="main/t/3"' in shown
    assert 'id="chosen"' in shown
    chosen = ["main/t/1", "main/t/2", "main/t/4", "main/t/9"]
    page = operator.get(ASK, {"action": "pause_partition", "place": chosen}).content.decode()
    assert figures_of(page) == {
        "partitions that are asked for": "2",
        "workers that have them": "2",
        "messages without a fate": "4",
        "tasks that wait to run": "2",
        "messages of lag": "20",
    }
    plain = " ".join(re.sub(r"<[^>]*>", " ", page).split())
    assert "1 of those chosen is paused already and left out" in plain
    assert "1 of those chosen has no live worker and is left out" in plain
    assert ControlRequest.objects.count() == 0
    form = sent_of(page) | {"reason": "deploy of v12"}
    where = operator.post(ASK, form)["Location"]
    assert operator.post(ASK, form)["Location"] == where
    each = ControlRequest.objects.exclude(worker="").order_by("worker")
    assert [(one.worker, one.arguments, one.state, one.reason, one.actor) for one in each] == [
        ("worker-1", {"topic": "t", "partition": 1}, "requested", "deploy of v12", "mara"),
        ("worker-2", {"topic": "t", "partition": 4}, "requested", "deploy of v12", "mara"),
    ]
    answers = operator.get(where).content.decode()
    assert "asked of the owners of 2 partitions" in answers
    assert "t 1" in answers
    assert "t 4" in answers
    listed = operator.get("/control").context["rows"]
    assert {each["target"] for each in listed} == {"2 partitions", "t 1", "t 4"}
    assert "main / owners" in operator.get("/control").content.decode()


@pytest.mark.usefixtures("fleet")
@pytest.mark.parametrize("other", [["main/t/1"], ["main/t/1", "main/t/9"], ["main/t/0"]])
def test_a_key_is_of_the_partitions_that_it_was_sent_for(
    operator: Client, other: list[str]
) -> None:
    form = {"action": "pause_partition", "of": "main", "key": "a" * 32}
    first = operator.post(ASK, {**form, "place": ["main/t/1", "main/t/4"]})
    again = operator.post(ASK, {**form, "place": ["main/t/4", "main/t/1"]})
    assert again["Location"] == first["Location"]
    page = operator.post(ASK, {**form, "place": other})
    assert page.status_code == 400
    assert "key: it was sent before" in page.context["error"]
    assert "another arguments" in page.context["error"]
    assert ControlRequest.objects.exclude(worker="").count() == 2


@pytest.mark.usefixtures("fleet")
def test_all_that_match_are_those_of_the_filter(operator: Client) -> None:
    asked = {"action": "pause_partition", "all": "1", "cluster": "main"}
    page = operator.get(ASK, asked).content.decode()
    assert sent_of(page)["place"] == ["main/t/0", "main/t/1", "main/t/3", "main/t/4"]
    assert figures_of(page)["messages of lag"] == "unknown"
    one = operator.get(ASK, {**asked, "worker": "worker-2", "text": "t/4"}).content.decode()
    assert sent_of(one)["place"] == ["main/t/4"]
    back = operator.get(ASK, {**asked, "action": "resume_partition"}).content.decode()
    assert sent_of(back)["place"] == ["main/t/2"]
    nothing = operator.get(ASK, {**asked, "text": "nowhere"}).content.decode()
    assert figures_of(nothing)["partitions that are asked for"] == "0"
    assert "<form method" not in nothing.split('id="h-effect"')[1].split("</section>")[0]


@pytest.mark.usefixtures("fleet")
@pytest.mark.parametrize(
    ("asked", "status", "said"),
    [
        ({"action": "stop", "all": "1"}, 400, "action: "),
        ({"action": "pause_partition"}, 400, "place: expected 1 to 500 partitions, got 0"),
        ({"action": "pause_partition", "all": "1"}, 400, "cluster: expected partitions of one"),
        (
            {"action": "pause_partition", "place": [f"main/t/{n}" for n in range(501)]},
            400,
            "place: expected 1 to 500 partitions, got 501",
        ),
    ],
)
def test_what_cannot_be_previewed_is_named(
    operator: Client, asked: dict[str, Any], status: int, said: str
) -> None:
    page = operator.get(ASK, asked)
    assert page.status_code == status
    assert said in page.context["error"]


@pytest.mark.usefixtures("fleet")
@pytest.mark.parametrize(
    ("sent", "status", "said"),
    [
        ({"key": "short"}, 400, "key: expected the one of the form"),
        ({"place": "main/t/x"}, 400, "place: expected cluster/topic/number, got main/t/x"),
        ({"place": "7"}, 400, "place: expected cluster/topic/number, got 7"),
        ({"place": "main/t/77"}, 409, "partition: no live worker of cluster main owns any"),
        ({"of": ""}, 409, "partition: no live worker of cluster - owns any"),
        ({"reason": "x" * 501}, 400, "reason: expected at most 500 characters"),
        ({"action": "drain"}, 400, "action: expected one of pause_partition, resume_partition"),
    ],
)
def test_what_cannot_be_asked_is_named(
    operator: Client, sent: dict[str, Any], status: int, said: str
) -> None:
    form = {"action": "pause_partition", "of": "main", "place": "main/t/1", "key": "a" * 32}
    page = operator.post(ASK, form | sent)
    assert page.status_code == status
    assert said in page.context["error"]
    assert ControlRequest.objects.count() == 0


@pytest.mark.usefixtures("fleet")
def test_who_only_reads_chooses_nothing(client: Client, user: User) -> None:
    client.force_login(user)
    page = client.get("/partitions").content.decode()
    assert 'name="place"' not in page
    assert 'id="chosen"' not in page
    assert client.get(ASK, {"action": "pause_partition", "all": "1"}).status_code == 403
    form = {"action": "pause_partition", "of": "main", "place": "main/t/1", "key": "a" * 32}
    assert client.post(ASK, form).status_code == 403
    assert ControlRequest.objects.count() == 0
