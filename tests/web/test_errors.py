"""Failures that no view answers itself: documents for programs, pages for people."""

from __future__ import annotations

from typing import Any, NoReturn

import pytest
from django.contrib.auth.models import User
from django.db import OperationalError, connection
from django.db.transaction import atomic
from django.test import Client

from workers.control_plane.pages import workers as workers_page

pytestmark = pytest.mark.django_db


@pytest.fixture
def reader(user: User) -> Client:
    client = Client(raise_request_exception=False, enforce_csrf_checks=True)
    client.force_login(user)
    return client


def break_pages(monkeypatch: pytest.MonkeyPatch, failure: Exception) -> None:
    def fail(*_: Any, **__: Any) -> NoReturn:
        raise failure

    monkeypatch.setattr(workers_page, "beats", fail)
    monkeypatch.setattr("workers.control_plane.fleet_api.beats", fail)


@pytest.mark.parametrize(
    ("failure", "status", "said"),
    [
        (OperationalError("connection refused"), 503, "does not answer"),
        (RuntimeError("a bug with a secret"), 500, "its log says why"),
    ],
)
def test_a_view_that_fails(
    reader: Client, monkeypatch: pytest.MonkeyPatch, failure: Exception, status: int, said: str
) -> None:
    break_pages(monkeypatch, failure)
    page = reader.get("/workers")
    assert page.status_code == status
    assert said in page.content.decode()
    assert "default-src 'none'" in page["Content-Security-Policy"]
    document = reader.get("/api/v1/dashboard")
    assert document["content-type"] == "application/problem+json"
    assert document.json()["status"] == status
    assert said in document.json()["detail"]
    assert ("Retry-After" in document) == (status == 503)
    assert str(failure) not in page.content.decode() + document.content.decode()


def test_a_question_without_an_answer_in_time_is_told_how_to_be_narrowed(
    reader: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(OperationalError) as caught, atomic(), connection.cursor() as cursor:
        cursor.execute("SET LOCAL statement_timeout = 1; SELECT pg_sleep(5)")
    break_pages(monkeypatch, caught.value)
    page = reader.get("/workers")
    text = page.content.decode()
    assert page.status_code == 503
    assert "Too large a question" in text
    assert "Ask for less: a shorter time" in text
    assert 'href="/history"' in text
    assert "reload_when_up.js" not in text  # each try would take as long
    document = reader.get("/api/v1/dashboard")
    assert (document.status_code, document["content-type"]) == (503, "application/problem+json")
    assert "Ask for less: a shorter time" in document.json()["detail"]
    assert "Retry-After" not in document


def test_a_refusal_without_a_database_for_its_frame_is_a_page(
    reader: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> NoReturn:
        raise OperationalError("connection refused")

    monkeypatch.setattr("drakkar_site.context_processors.known_names", fail)
    page = reader.get("/nowhere")
    assert page.status_code == 404
    assert "There is no such page" in page.content.decode()
    assert 'href="/history"' not in page.content.decode()


def test_no_such_page_keeps_the_frame(reader: Client) -> None:
    page = reader.get("/nowhere")
    assert page.status_code == 404
    assert "There is no such page" in page.content.decode()
    assert 'href="/history"' in page.content.decode()


@pytest.mark.parametrize(
    ("path", "right"), [("/audit", "admin"), ("/admin/", "admin"), ("/control/new", "operate")]
)
def test_a_person_who_lacks_a_right_gets_a_page(reader: Client, path: str, right: str) -> None:
    page = reader.get(path)
    assert (page.status_code, page["content-type"]) == (403, "text/html; charset=utf-8")
    assert f"You lack the right {right}" in page.content.decode()
    assert 'href="/history"' in page.content.decode()
    assert page["Cache-Control"] == "private, no-store"


def test_a_program_that_lacks_a_right_gets_a_document(secret: str) -> None:
    answer = Client(headers={"Authorization": f"Bearer {secret}"}).get("/audit")
    assert (answer.status_code, answer["content-type"]) == (403, "application/problem+json")
    assert answer.json()["detail"] == "The token lacks the scope admin"


def test_too_many_failed_logins_are_a_page(client: Client) -> None:
    wrong = {"username": "mara", "password": "wrong"}
    answers = [client.post("/login/", wrong) for _ in range(6)]
    assert [answer.status_code for answer in answers] == [200] * 5 + [429]
    assert "Too many failed attempts from this address" in answers[-1].content.decode()
    assert answers[-1]["content-type"] == "text/html; charset=utf-8"
    assert int(answers[-1]["Retry-After"]) > 0


def test_a_forged_form_of_an_operator(user: User, reader: Client) -> None:
    User.objects.filter(pk=user.pk).update(is_superuser=True, is_staff=True)
    page = reader.post("/control/new", {"kind": "drain_worker"})
    assert page.status_code == 403
    assert "Open its page again" in page.content.decode()
    assert 'href="/history"' in page.content.decode()


def test_a_page_that_is_forbidden(user: User, reader: Client) -> None:
    User.objects.filter(pk=user.pk).update(is_superuser=True, is_staff=True)
    page = reader.get("/admin/recorder/run/add/")
    assert page.status_code == 403
    assert "You may not do this" in page.content.decode()
    assert 'href="/history"' in page.content.decode()


def test_a_host_that_is_not_ours(reader: Client) -> None:
    page = reader.get("/", headers={"host": "elsewhere.example"})
    assert page.status_code == 400
    assert "cannot read this request" in page.content.decode()
