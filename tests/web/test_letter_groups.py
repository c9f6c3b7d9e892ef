"""Dead letters by the failure that made them."""

from __future__ import annotations

import re
from datetime import timedelta
from html import unescape
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import OperationalError
from django.test import Client

from recorder.models import FailureGroup
from sinks import letter_rows
from tests.web.conftest import START
from tests.web.test_dead_letters import make
from tests.web.test_letter_actions import numbers

pytestmark = pytest.mark.django_db
PAGE = "/dead-letters/by-failure"
DISK, QUOTA = "a" * 20, "b" * 20


@pytest.fixture
def letters() -> None:
    """Two failures in cluster main with three letters and one, one in another, one unknown."""
    for name, title in ((DISK, "exit 3: <b>disk</b> full"), (QUOTA, "no quota")):
        FailureGroup.objects.create(
            fingerprint=name, cluster="main", kind="exit", title=title, first_seen=START,
            last_seen=START, count=9,
        )  # fmt: skip
    make(1, failure_group=DISK, labels={"tenant": "a"})
    make(2, failure_group=DISK, state="resolved")
    make(9, failure_group=DISK, stage="deliver", sink="out")
    make(4, failure_group=QUOTA)
    make(6, failure_group="c" * 20, cluster="other")
    make(5)


def listed(page: Any) -> list[tuple[str, int, int]]:
    return [(row["failure_group"][:1], row["count"], row["open"]) for row in page.context["rows"]]


@pytest.mark.usefixtures("letters")
def test_letters_are_counted_by_failure(operator: Client) -> None:
    page = operator.get(PAGE)
    assert listed(page) == [("a", 3, 2), ("c", 1, 1), ("", 1, 1), ("b", 1, 1)]
    text = page.content.decode()
    assert "exit 3: &lt;b&gt;disk&lt;/b&gt; full" in text
    assert "of a failure that is not known" in text
    first = page.context["rows"][0]
    assert (first["first"], first["last"]) == (START, START + timedelta(seconds=4))
    assert listed(operator.get(PAGE, {"cluster": "other"})) == [("c", 1, 1)]
    assert listed(operator.get(PAGE, {"label": "tenant=a"})) == [("a", 1, 1)]
    assert listed(operator.get(PAGE, {"state": "resolved"})) == [("a", 1, 0)]


@pytest.mark.usefixtures("letters")
def test_what_is_done_is_done_to_all_of_one_that_match(operator: Client) -> None:
    text = operator.get(PAGE, {"stage": "task", "since": "2020-01-01"}).content.decode()
    row = text[text.index(f'data-key="{DISK}"') :].partition("</tr>")[0]
    links = [unescape(each) for each in re.findall(r'href="([^"]*)"', row)]
    one_by_one = operator.get(links[0])
    assert [each.offset for each in one_by_one.context["page"].rows] == [2, 1]
    assert re.findall(r'">(Replay to the source|Deliver to the sink|Resolve)</a>', row) == [
        "Replay to the source", "Resolve",
    ]  # fmt: skip
    confirm = operator.get(links[-1]).content.decode()
    assert numbers(confirm)["open letter"] == "1"
    assert "Resolve: 1 letter" in confirm
    assert "Deliver to the sink" in operator.get(PAGE, {"group": DISK}).content.decode()
    message = operator.get(PAGE, {"message": "t/0:1"})
    assert message.context["rows"][0]["actions"] == []


@pytest.mark.usefixtures("letters")
def test_who_reads_looks_only_and_what_is_wrong_is_named(client: Client, user: User) -> None:
    client.force_login(user)
    assert "/dead-letters/jobs/new" not in client.get(PAGE).content.decode()
    for query in ("state=x", "since=x", "group=x", "label=x"):
        page = client.get(f"{PAGE}?{query}")
        assert page.status_code == 400
        assert f"{query.partition('=')[0]}: expected" in page.context["error"]


@pytest.mark.usefixtures("letters")
def test_counts_and_rows_are_bounded_and_say_so(
    operator: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(letter_rows, "MOST_GROUPED", 2)
    page = operator.get(PAGE)
    assert listed(page) == [("a", 1, 1), ("c", 1, 1)]
    assert page.context["is_cut"]
    monkeypatch.setattr(letter_rows, "MOST_GROUPED", 100)
    assert not operator.get(PAGE).context["is_cut"]
    monkeypatch.setattr("workers.control_plane.pages.letter_groups.MOST_FAILURES", 3)
    page = operator.get(PAGE)
    assert len(page.context["rows"]) == 3
    assert b"There are more failures than are listed" in page.content


@pytest.mark.usefixtures("letters")
def test_without_the_history_the_letters_are_there(
    operator: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(**_: Any) -> None:
        raise OperationalError("connection refused")

    monkeypatch.setattr(FailureGroup.objects, "filter", away)
    page = operator.get(PAGE)
    assert len(listed(page)) == 4
    assert b"The history is away" in page.content
