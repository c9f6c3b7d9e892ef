"""The probe page: a message from a form, a letter or a topic; its result; nobody alive."""

from __future__ import annotations

import base64
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.auth.models import User
from django.test import Client
from pytest_django import Settings

from integration.services.kafka_mock import RunningMock
from tests.contract.test_control import Loop, described, ignored
from tests.web.conftest import MakeRun
from tests.web.test_dead_letters import make
from tests.web.test_topics import GONE, cluster, produce
from workers.control import Answer, ProbeArguments
from workers.models import ControlRequest
from workers.runtime.control_inbox import ControlInbox

pytestmark = pytest.mark.django_db
KEY = "0" * 32
RESULT = {
    "fate": "dead_lettered",
    "reason": "<b>why</b>",
    "tasks": [
        {
            "task_id": "0:0:0", "attempt": 1, "args": ["--token", "***"], "exit_code": 3,
            "duration_ms": 12.5, "stdout": "<i>", "stderr": "bad", "failure": "exit",
        }
    ],
    "payloads": [
        {"kind": "memory", "sink": "store", "fields": {"value": "v"}, "delivery_id": "main/t/0"}
    ],
    "letters": [{"drakkar-stage": "task"}],
    "events": ["consumed"],
}  # fmt: skip


@pytest.fixture(autouse=True)
def clusters(settings: Settings) -> None:
    settings.DRAKKAR = SimpleNamespace(clusters={"main": cluster(GONE, "t")})


def post(client: Client, **asked: str) -> Any:
    values = {"of": "main", "key_of_form": KEY, "value": '{"a": 1}', "encoding": "text"} | asked
    return client.post("/probe", values)


def test_a_message_is_asked_once_obeyed_and_its_result_shown(
    operator: Client, make_run: MakeRun, django_assert_max_num_queries: Any
) -> None:
    run = make_run("worker-1", pool={"busy": 1})
    make_run("worker-2", pool={"busy": 3})
    headers = "a=1\r\n\r\nb=x=y"
    message = {"value": "one\r\ntwo", "headers": headers, "key": "k", "offset": "9"}
    where = post(operator, **message)["Location"]
    make_run("worker-3", pool={"busy": 0})
    assert post(operator, **message)["Location"] == where
    edited = post(operator, **message | {"value": "three"})
    assert "sent before" in edited.context["error"]
    assert edited.context["form"]["value"] == "three"
    loop = Loop()
    inbox = ControlInbox(described(run), loop, ignored)
    inbox.turn()
    ((order, future),) = loop.orders
    asked = order.arguments
    assert isinstance(asked, ProbeArguments)
    assert (asked.value, asked.key, asked.offset) == (b"one\ntwo", b"k", 9)
    assert asked.headers == [("a", b"1"), ("b", b"x=y")]
    page = operator.get(where)
    assert b"data-waiting" in page.content
    future.set_result(Answer(is_done=True, detail="fate: dead_lettered", result=RESULT))
    inbox.turn()
    with django_assert_max_num_queries(15):
        page = operator.get(where)
    text = page.content.decode()
    assert "data-waiting" not in text
    assert "&lt;b&gt;why&lt;/b&gt;" in text
    assert "&lt;i&gt;" in text
    assert "fate: dead_lettered" in text
    assert "main/t/0" in text
    assert page.context["form"]["value"] == "one\ntwo"
    told = operator.get(f"/api/v1/control/{order.id}").json()
    assert told["result"]["fate"] == "dead_lettered"
    written = base64.b64encode(b"one\ntwo").decode()
    assert written not in operator.get("/control").content.decode()


def test_nobody_alive_names_the_command(operator: Client, make_run: MakeRun) -> None:
    make_run("worker-1", state="stopped")
    page = operator.get("/probe").content.decode()
    assert "manage.py probe_message --cluster main" in page
    answer = post(operator)
    assert answer.status_code == 400
    assert "use manage.py probe_message" in answer.context["error"]
    assert not ControlRequest.objects.exists()


def test_a_letter_fills_the_form_byte_for_byte(operator: Client, make_run: MakeRun) -> None:
    make_run()
    form = operator.get(f"/probe?letter={make(4).pk}").context["form"]
    assert (form["encoding"], form["value"], form["headers"]) == ("text", '{"a":1}', "h=<b>")
    assert (form["partition"], form["offset"], form["timestamp"]) == ("0", "4", "1")
    letter = make(5, value=b"\xff\r\n", key=b"", headers=[["n", None]])
    form = operator.get(f"/probe?letter={letter.pk}").context["form"]
    assert form["encoding"] == "base64"
    assert base64.b64decode(form["value"]) == b"\xff\r\n"
    assert form["has_key"]
    cut = operator.get(f"/probe?letter={make(6, is_whole=False).pk}")
    assert "manage.py probe_message takes a file" in cut.context["error"]


def test_a_message_of_the_source_topic_fills_the_form(
    operator: Client, kafka_mock: RunningMock, settings: Settings
) -> None:
    topic = f"probed-{uuid4().hex[:8]}"
    kafka_mock.create_topic(topic, 2)
    produce(kafka_mock, topic, 1, {"value": b"zero"}, {"value": b"one", "key": b"k"})
    settings.DRAKKAR = SimpleNamespace(clusters={"main": cluster(kafka_mock.brokers, topic)})
    form = operator.get("/probe?cluster=main&at=1:1").context["form"]
    assert (form["value"], form["key"], form["offset"]) == ("one", "k", "1")
    gone = operator.get("/probe?cluster=main&at=1:7")
    assert "does not hold 1:7 any more" in gone.context["error"]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"encoding": "base64", "value": "%%"}, "value: expected base64, got %%"),
        ({"encoding": "x"}, "encoding: expected text or base64, got x"),
        ({"headers": "nothing"}, "headers: expected NAME=VALUE in each line, got nothing"),
        ({"value": "x" * 200_000}, "value: expected 196608 bytes or less, got 200000"),
        ({"partition": "-1"}, "partition: "),
        ({"key_of_form": ""}, "key_of_form: expected"),
        ({"of": "none"}, "cluster: expected one that this site's configuration knows (main)"),
    ],
)
def test_what_cannot_be_probed_is_named(
    operator: Client, make_run: MakeRun, asked: dict[str, str], said: str
) -> None:
    make_run()
    answer = post(operator, **asked)
    assert answer.status_code == 400
    assert said in answer.context["error"]
    assert not ControlRequest.objects.exists()


@pytest.mark.parametrize("query", ["at=1", "at=x:1", "letter=x", "request=x"])
def test_a_bad_query_is_named(operator: Client, query: str) -> None:
    page = operator.get(f"/probe?{query}")
    assert page.status_code == 400
    assert query.partition("=")[0] in page.context["error"]


def test_a_viewer_may_look_but_not_ask(client: Client, user: User, make_run: MakeRun) -> None:
    make_run()
    client.force_login(user)
    assert b"<textarea" not in client.get("/probe").content
    assert post(client).status_code == 403
