"""What is typed into the palette, and the places that it leads to."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Group, User
from django.db import OperationalError
from django.test import Client
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries

from recorder.models import FailureGroup
from sinks.models import DeadLetter
from tests.browser.sample import letters
from tests.web.conftest import MakeRun
from workers.models import ControlRequest

pytestmark = pytest.mark.django_db
MOST_QUERIES = 8


@pytest.fixture
def reader(client: Client, user: User) -> Client:
    """A client of mara, who reads."""
    client.force_login(user)
    return client


def places(client: Client, text: str, **more: str) -> list[dict[str, Any]]:
    """The places that a text may mean."""
    answer = client.get("/go", {"q": text, **more}, headers={"Accept": "application/json"})
    assert answer.status_code == 200
    found: list[dict[str, Any]] = answer.json()["results"]
    return found


def test_each_form_leads_to_its_place(reader: Client, make_run: MakeRun) -> None:
    make_run("worker-7")
    asked = ControlRequest.objects.create(cluster="main", worker="w", action="stop", actor="anna")
    first = {
        text: places(reader, text)[0]["url"]
        for text in ("12:345", "t 12:345", "3:7:0", "tenant=a&b", "er-7", "part", str(asked.id))
    }
    assert first == {
        "12:345": "/trace?q=12%3A345",
        "t 12:345": "/trace?q=t+12%3A345",
        "3:7:0": "/task/main/3:7:0",
        "tenant=a&b": "/history?label=tenant%3Da%26b",
        "er-7": places(reader, "worker-7")[0]["url"],
        "part": "/partitions",
        str(asked.id): f"/control/{asked.id}",
    }
    assert "worker-7" in first["er-7"]


def test_a_letter_is_found_by_its_number(reader: Client, make_run: MakeRun) -> None:
    letters([make_run(f"worker-{n}") for n in (1, 2, 3)])
    found = [each for each in places(reader, "99999999999999999999") if each["kind"] == "letter"]
    assert found == []
    number = DeadLetter.objects.latest("at").pk
    kinds = {each["kind"]: each["url"] for each in places(reader, f"#{number}")}
    assert kinds["letter"] == f"/dead-letters/{number}"


def test_what_has_no_known_form_can_be_searched_for(reader: Client) -> None:
    found = places(reader, "<b>what?</b>")
    assert [each["kind"] for each in found] == ["search"] * 3
    page = reader.get("/go", {"q": "<b>what?</b>"}).content.decode()
    assert "&lt;b&gt;what?&lt;/b&gt;” in the history" in page


def test_failure_groups_are_found_by_words_of_their_title(
    reader: Client, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = timezone.now()
    for number in range(9):
        FailureGroup.objects.create(
            fingerprint=f"{number:020x}", cluster="rank" if number else "main", kind="exit",
            title=f"exit 3: cannot open <path> of {number}", count=number, first_seen=now,
            last_seen=now + timedelta(seconds=number),
        )  # fmt: skip
    found = [each for each in places(reader, "OPEN exit") if each["kind"] == "failure"]
    assert [each["url"][-1] for each in found] == list("876543")
    assert found[0]["detail"] == "open, 8 failures, cluster rank"
    found = places(reader, "open of 0", cluster="main")
    assert [each["title"] for each in found if each["kind"] == "failure"] == [
        "exit 3: cannot open <path> of 0"
    ]
    for nothing in ("open closed", "of 0 in 3"):
        assert "failure" not in {each["kind"] for each in places(reader, nothing)}
    monkeypatch.setattr("drakkar_site.palette.titled", away)
    assert {each["kind"] for each in places(reader, "open")} == {"search"}


def away(*_: Any) -> None:
    raise OperationalError("connection refused")


def test_only_what_the_reader_may_do_is_offered(
    reader: Client, user: User, make_run: MakeRun
) -> None:
    make_run()
    assert "Audit" not in {each["title"] for each in places(reader, "")}
    assert "action" not in {each["kind"] for each in places(reader, "tenant=a")}
    user.groups.add(Group.objects.get_or_create(name="operator")[0])
    reader.force_login(user)
    asked = [each["title"] for each in places(reader, "tenant=a") if each["kind"] == "action"]
    every = ["Run again what failed with tenant=a", "Cancel tasks with tenant=a"]
    every.append("Replay letters with tenant=a")
    assert asked == every
    pause = places(reader, "key=acme & co")[-4]
    assert pause["title"] == "Pause key acme & co"
    page = reader.get(pause["url"])
    assert page.status_code == 200
    assert b"acme &amp; co" in page.content
    assert places(reader, "group=x")[7]["url"].endswith(
        "action=pause_group&to_cluster=main&group=x"
    )
    assert Client().get("/go").status_code == 302


def test_the_choice_goes_along_and_the_answer_is_bounded(
    reader: Client, make_run: MakeRun, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    for number in range(30):
        make_run(f"worker-{number}")
        make_run(f"worker-{number}", "rank")
    with django_assert_max_num_queries(MOST_QUERIES):
        found = places(reader, "work", cluster="rank")
    assert all("cluster=rank" in each["url"] for each in found)
    assert len(places(reader, "worker")) == 1 + 6 + 3
