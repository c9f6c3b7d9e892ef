"""Dead letters as pages, API and admin."""

from __future__ import annotations

import base64
import re
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

from sinks.models import DeadLetter, Replay
from tests.web.conftest import START

pytestmark = pytest.mark.django_db


def make(number: int, **fields: Any) -> DeadLetter:
    known: dict[str, Any] = {
        "cluster": "main",
        "worker": "w",
        "letter_topic": "t_dlq",
        "letter_partition": 0,
        "letter_offset": number,
        "at": START + timedelta(seconds=number // 2),
        "topic": "t",
        "partition": 0,
        "offset": number,
        "origin": f"main/t/0/{number}/1",
        "stage": "task",
        "failure": "exit",
        "reason": f"reason-{number}",
        "attempts": 4,
        "task_id": f"0:{number}:0",
        "key": None,
        "value": b'{"a":1}',
        "headers": [["h", base64.b64encode(b"<b>").decode()]],
        "size_bytes": 7,
        "is_whole": True,
        "fingerprint": "f" * 64,
    }
    return DeadLetter.objects.create(**(known | fields))


@pytest.fixture
def reader(client: Client, user: User) -> Client:
    client.force_login(user)
    return client


def offsets(answer: Any) -> list[int]:
    return [letter["offset"] for letter in answer.json()["letters"]]


def test_the_letters_of_a_message(reader: Client) -> None:
    letters = [make(1), make(2, offset=1), make(3), make(4, offset=1, topic="other")]
    page = reader.get("/dead-letters?message=t/0:1").content.decode()
    shown = [letter.pk for letter in letters if f'href="/dead-letters/{letter.pk}"' in page]
    assert shown == [letters[0].pk, letters[1].pk]
    assert offsets(reader.get("/api/v1/dead-letters?message=t/0:1")) == [1, 1]
    for wrong in ("0:1", f"t/0:{2**63}", f"t/{2**31}:1", "a b/0:1"):
        answer = reader.get("/dead-letters", {"message": wrong})
        assert (answer.status_code, b"message: expected topic" in answer.content) == (400, True)


def test_a_letter_leads_to_its_sink(reader: Client) -> None:
    letter = make(1, stage="deliver", sink="out")
    page = reader.get(f"/dead-letters/{letter.pk}").content.decode()
    assert '<a href="/sinks?cluster=main">out</a>' in page


def test_pages_follow_each_other_without_gap(reader: Client) -> None:
    for number in range(120):
        make(number)
    seen: list[int] = []
    older: str | None = ""
    for _ in range(3):
        answer = reader.get("/api/v1/dead-letters", {"older": older or ""})
        seen += offsets(answer)
        older = answer.json()["older"]
    assert seen == list(range(119, -1, -1))
    assert older is None
    first = reader.get("/dead-letters")
    assert b"The newest <b>50</b> letters, newest first" in first.content
    assert b"reason-119" in first.content
    assert b"reason-69<" not in first.content
    following = reader.get("/dead-letters", {"older": first.context["page"].older})
    assert [letter.offset for letter in following.context["page"].rows] == list(range(69, 19, -1))
    back = reader.get("/dead-letters", {"newer": following.context["page"].newer})
    assert [letter.offset for letter in back.context["page"].rows] == list(range(119, 69, -1))


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ({"cluster": "other"}, [2]),
        ({"stage": "parse"}, [3]),
        ({"state": "replayed"}, [4]),
        ({"cluster": "main", "stage": "task", "state": "open"}, [1]),
        ({"label": "tenant=a=b"}, [1]),
        ({"label": "tenant= a=b "}, [1]),
        ({"label": "tenant=a", "cluster": "main"}, []),
    ],
)
def test_page_and_api_show_the_letters_that_match(
    reader: Client, query: dict[str, str], wanted: list[int]
) -> None:
    make(1, labels={"tenant": "a=b", "tier": "x"})
    make(2, cluster="other", labels={"tier": "a=b"})
    make(3, stage="parse")
    make(4, state="replayed")
    assert offsets(reader.get("/api/v1/dead-letters", query)) == wanted
    page = reader.get("/dead-letters", query)
    assert [letter.offset for letter in page.context["page"].rows] == wanted


def test_a_filter_by_label_says_that_unknown_ones_are_left_out(reader: Client) -> None:
    make(1, labels={"tenant": "a"})
    make(2, labels={})
    said = b"Letters whose labels are unknown are left out"
    assert said not in reader.get("/dead-letters?label=tenant=a").content
    make(3, stage="arrange")
    assert said in reader.get("/dead-letters?label=tenant=a").content
    assert said not in reader.get("/dead-letters?label=tenant=a&stage=task").content
    assert said not in reader.get("/dead-letters").content


@pytest.mark.parametrize(
    "query", ["stage=nothing", "state=x", "older=x", "older=9999-01-01_z", "label=x"]
)
def test_a_bad_filter_is_named(reader: Client, query: str) -> None:
    page = reader.get(f"/dead-letters?{query}")
    assert page.status_code == 400
    assert query.partition("=")[0] in page.context["error"]
    answer = reader.get(f"/api/v1/dead-letters?{query}")
    assert answer.status_code == 422
    assert query.partition("=")[0] in answer.json()["detail"]


def test_a_letter_shows_the_labels_of_its_task(reader: Client) -> None:
    known, none, unknown = make(1, labels={"tenant": "a"}), make(2, labels={}), make(3)
    shown = reader.get(f"/dead-letters/{known.pk}").content.decode()
    assert 'href="/dead-letters?label=tenant%3Da&amp;cluster=main"' in shown
    for letter, said in ((none, "none"), (unknown, "unknown")):
        shown = reader.get(f"/dead-letters/{letter.pk}").content.decode()
        assert re.search(rf'<th scope="row">Labels</th><td>\s*{said}</td>', shown)
    rows = reader.get("/api/v1/dead-letters").json()["letters"]
    assert [row["labels"] for row in rows] == [None, {}, {"tenant": "a"}]


def test_one_letter_with_content_replays_and_kin(reader: Client) -> None:
    letter = make(1, value=b"<script>\xff", key=b"\x00k")
    kin = make(2, origin=letter.origin)
    Replay.objects.create(letter=letter, actor="mara", target_topic="t", asked_at=START)
    text = reader.get(f"/dead-letters/{letter.pk}").content.decode()
    assert "&lt;script&gt;" in text
    assert "not confirmed" in text
    assert f"/dead-letters/{kin.pk}" in text
    told = reader.get(f"/api/v1/dead-letters/{letter.pk}").json()
    assert base64.b64decode(told["value"]) == b"<script>\xff"
    assert base64.b64decode(told["headers"][0][1]) == b"<b>"
    assert told["replays"][0]["confirmed_at"] is None
    assert reader.get("/dead-letters/999999").status_code == 404
    assert reader.get("/api/v1/dead-letters/999999").status_code == 404


def test_the_admin_shows_and_changes_nothing(admin_client: Client) -> None:
    letter = make(1)
    assert admin_client.get("/admin/sinks/deadletter/").status_code == 200
    where = f"/admin/sinks/deadletter/{letter.pk}/change/"
    assert admin_client.get(where).status_code == 200
    assert admin_client.post(where, {"state": "resolved"}).status_code == 403
    assert admin_client.get("/admin/sinks/deadletter/add/").status_code == 403


def test_the_admin_does_not_count(admin_client: Client, django_assert_max_num_queries: Any) -> None:
    make(1)
    with django_assert_max_num_queries(20) as queries:
        admin_client.get("/admin/sinks/deadletter/")
    assert [each["sql"] for each in queries.captured_queries if "COUNT(" in each["sql"]] == []
