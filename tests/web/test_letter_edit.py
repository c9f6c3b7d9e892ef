"""One letter changed on its page, looked at, sent once by the controller, and told so."""

from __future__ import annotations

import base64
from html import unescape
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.auth.models import User
from django.test import Client

from domain.message import MAX_CONTENT_BYTES
from domain.origin import EDITED_HEADER, REPLAY_HEADER
from drakkar_site.accounts.models import AuditEntry
from sinks.base import PermanentError
from sinks.models import DeadLetter, LetterJob, Replay
from tests.contract.test_replay import Tape
from tests.support.reading import read_page
from tests.web.test_dead_letters import make
from tests.web.test_letter_actions import KEY, run, states

pytestmark = pytest.mark.django_db(transaction=True)
BINARY = [["h", base64.b64encode(b"\xff\x00").decode()], ["none", None]]


def post(client: Client, letter: DeadLetter, step: str = "send", **asked: str) -> Any:
    form = {"step": step, "key_of_form": KEY, "encoding": "text", "headers": "h=<b>"}
    return client.post(f"/dead-letters/{letter.pk}/edit", form | asked)


def test_the_form_holds_the_message(operator: Client) -> None:
    letter = make(1, key=b"k")
    page = read_page(operator.get(f"/dead-letters/{letter.pk}"))
    assert f"/dead-letters/{letter.pk}/edit" in page
    form = operator.get(f"/dead-letters/{letter.pk}/edit").context["form"]
    assert (form["encoding"], form["value"], form["key"]) == ("text", '{"a":1}', "k")
    assert (form["has_key"], form["headers"]) == (True, "h=<b>")
    other = operator.get(f"/dead-letters/{make(2, headers=BINARY).pk}/edit").context["form"]
    assert (other["encoding"], other["headers"]) == ("base64", "h=/wA=\nnone=")


def test_the_change_is_looked_at_before_anything_is_asked(operator: Client) -> None:
    letter = make(1)
    make(2, origin=letter.origin)
    page = post(operator, letter, "check", value='{"a": "<i>"}', key="new")
    text = read_page(page)
    assert page.context["answers"] == 2
    assert "7 bytes before, 12 bytes now" in text
    assert "none before, 3 bytes now" in text
    assert "&lt;i&gt;" in text
    assert not LetterJob.objects.exists()
    assert states() == ["open", "open"]


def test_the_changed_message_is_sent_once_as_a_replay_and_told(operator: Client) -> None:
    letter = make(1)
    where = post(operator, letter, value='{"a":\r\n2}')["Location"]
    assert post(operator, letter, value='{"a":\r\n2}')["Location"] == where
    tape = Tape()
    (told,) = run(tape)
    assert post(operator, letter, value="other")["Location"] == where  # the form of before
    assert run(tape) == []
    ((sent, partition),) = tape.sent
    assert (sent.key, sent.value, partition) == (None, b'{"a":\n2}', 0)
    assert sent.headers == [
        ("h", b"<b>"), (EDITED_HEADER, b"mara"), (REPLAY_HEADER, letter.origin.encode()),
    ]  # fmt: skip
    assert (told.kind, told.edited, told.actor) == ("replayed", ("value",), "mara")  # type: ignore[attr-defined]
    assert (states(), Replay.objects.get().target_offset) == (["replayed"], 1)
    assert "Edit and replay" in read_page(operator.get(where))
    entry = AuditEntry.objects.order_by("id").first()
    assert entry is not None
    assert (entry.actor, entry.outcome) == ("mara", "done")
    job = LetterJob.objects.get()
    assert entry.target == f"made={job.pk} letter_id={letter.pk} step=send"


def test_what_the_form_did_not_change_stays_byte_for_byte(operator: Client) -> None:
    letter = make(1, value=None, headers=[*BINARY, ["a=b", "AAA="]])
    form = operator.get(f"/dead-letters/{letter.pk}/edit").context["form"]
    asked = {"encoding": "base64", "value": "", "headers": form["headers"] + "\nnew=AQ=="}
    post(operator, letter, **asked)
    tape = Tape()
    run(tape)
    ((sent, _),) = tape.sent
    assert sent.value is None
    assert list(sent.headers)[:4] == [
        ("h", b"\xff\x00"), ("none", None), ("a=b", b"\0\0"), ("new", b"\x01"),
    ]  # fmt: skip


@pytest.mark.parametrize("value", [b"bell \x07", b"escape \x1b[0m", "turned \u202e".encode()])
def test_control_characters_come_back_from_the_page_as_they_were(
    operator: Client, value: bytes
) -> None:
    letter = make(1, value=value)
    page = read_page(operator.get(f"/dead-letters/{letter.pk}/edit"))
    written = unescape(page.partition('name="value"')[2].partition(">")[2].partition("<")[0])
    encoding = "base64" if "<option selected>base64" in page else "text"
    post(operator, letter, encoding=encoding, value=written, headers="h=eA==")
    tape = Tape()
    run(tape)
    ((sent, _),) = tape.sent
    assert (sent.value, sent.headers[0]) == (value, ("h", b"x"))
    refused = post(operator, make(2), value="bell \x07", key_of_form=uuid4().hex)
    assert "without control characters" in refused.context["error"]


def test_what_kafka_refuses_is_open_again(operator: Client) -> None:
    letter = make(1)
    where = post(operator, letter, value="x")["Location"]
    tape = Tape()
    tape.refusal = PermanentError("too large")
    assert run(tape) == []
    assert states() == ["open"]
    assert "too large" in read_page(operator.get(where))


@pytest.mark.parametrize(
    ("letter", "asked", "said"),
    [
        ({}, {"value": '{"a":1}'}, "nothing was changed"),
        ({}, {"value": "x", "encoding": "base64"}, "expected base64"),
        ({}, {"value": "x", "encoding": "utf-7"}, "encoding: expected text or base64"),
        ({}, {"value": "x", "headers": "h"}, "headers: expected NAME=VALUE"),
        ({}, {"value": "x", "headers": "h\0=1"}, "headers: expected NAME=VALUE"),
        ({}, {"value": "x" * (MAX_CONTENT_BYTES + 1)}, "value: expected 196608 bytes or less"),
        ({}, {"value": "x", "key_of_form": "k"}, "key: expected the one of the form"),
        ({"stage": "deliver"}, {"value": "x"}, "stage: a letter of stage deliver"),
        ({"state": "replayed"}, {"value": "x"}, "state: expected an open letter"),
        ({"is_whole": False}, {"value": "x"}, "size: only the first 64 KiB of its 7 bytes"),
    ],
)
def test_what_cannot_be_sent_is_said_in_its_place(
    operator: Client, letter: dict[str, Any], asked: dict[str, str], said: str
) -> None:
    page = post(operator, make(1, **letter), **asked)
    assert page.status_code == 400
    assert said in page.context["error"]
    assert not LetterJob.objects.exists()


def test_edits_are_of_one_letter_and_of_operators(client: Client, user: User) -> None:
    letter = make(1)
    client.force_login(user)
    assert b"Look at the change" not in client.get(f"/dead-letters/{letter.pk}/edit").content
    assert post(client, letter, value="x").status_code == 403
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(User.objects.create_superuser("root"))
    assert post(strict, letter, value="x").status_code == 403
    assert not LetterJob.objects.exists()
