"""A row for every request that changes something, with no secret in it."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import Error
from django.http import HttpRequest, HttpResponse
from django.test import Client
from django.urls import clear_url_caches, path
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries

from drakkar_site import urls
from drakkar_site.accounts.models import AuditEntry, Token
from drakkar_site.accounts.tokens import issue
from sinks.models import LetterJob
from tests.support.reading import read_page
from tests.web.conftest import MakeRun
from tests.web.test_dead_letters import make
from workers.models import ControlRequest

pytestmark = pytest.mark.django_db
MAX_QUERIES = 15
KEY = "0" * 32
STOP = {"action": "stop", "cluster": "main", "worker": "worker-1", "key": KEY}


@pytest.fixture
def root(client: Client) -> Client:
    client.force_login(User.objects.create_superuser("root"))
    return client


def entry() -> AuditEntry:
    """The only row."""
    return AuditEntry.objects.get()


def told(row: AuditEntry) -> tuple[str, str, int, str]:
    return row.actor, row.outcome, row.status, row.target


def test_reading_writes_nothing(operator: Client) -> None:
    operator.get("/")
    operator.head("/history")
    assert not AuditEntry.objects.exists()


def test_an_action_on_a_page(operator: Client, make_run: MakeRun) -> None:
    make_run()
    answer = operator.post("/control/new?x=1", STOP, REMOTE_ADDR="10.0.0.7")
    row = entry()
    made = ControlRequest.objects.get().id
    target = f"made={made} action=stop cluster=main worker=worker-1"
    assert told(row) == ("mara", "done", 302, target)
    assert (row.via, row.address, row.method) == ("session", "10.0.0.7", "POST")
    assert row.path == "/control/new?x=1"
    assert answer["X-Request-ID"] == row.request_id


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("text/plain", ""),
        ("multipart/form-data", ""),
        ("application/x-www-form-urlencoded", "&" * 2000),
    ],
)
def test_no_way_to_send_an_action_loses_its_row(
    client: Client, user: User, make_run: MakeRun, kind: str, more: str
) -> None:
    make_run()
    _, secret = issue(user, ["operate"], None)
    body = json.dumps({**STOP, "more": more})
    answer = client.post(
        "/api/v1/control", body, kind, headers={"Authorization": f"Bearer {secret}"}
    )
    assert answer.status_code == 202
    assert told(entry())[:3] == ("mara", "done", 202)
    assert "action=stop cluster=main worker=worker-1" in entry().target


@pytest.mark.parametrize(
    ("kind", "body"),
    [("multipart/form-data", "x"), ("application/x-www-form-urlencoded", "a=1&" * 2000)],
)
def test_a_form_that_cannot_be_read_has_a_row(
    client: Client, user: User, kind: str, body: str
) -> None:
    token, secret = issue(user, ["read", "operate", "admin"], None)
    headers = {"Authorization": f"Bearer {secret}"}
    answer = client.post(f"/tokens/{token.pk}/revoke", body, kind, headers=headers)
    assert answer.status_code == 302
    assert told(entry()) == ("mara", "done", 302, f"token_id={token.pk}")


def test_an_action_by_the_api(client: Client, user: User, make_run: MakeRun) -> None:
    make_run()
    token, secret = issue(user, ["operate"], None)
    document = {"cluster": "main", "action": "pause_sink", "worker": "worker-1"}
    document["arguments"] = {"sink": "out"}  # type: ignore[assignment]
    headers = {"Authorization": f"Bearer {secret}"}
    client.post("/api/v1/control", document, content_type="application/json", headers=headers)
    row = entry()
    assert row.via == f"token {token.pk}"
    target = "action=pause_sink cluster=main worker=worker-1 sink=out"
    assert told(row) == ("mara", "done", 202, target)


@pytest.mark.parametrize("method", ["post", "put", "patch", "delete"])
def test_a_refused_request_leaves_a_row(client: Client, user: User, method: str) -> None:
    client.force_login(user)
    assert getattr(client, method)("/control/new", STOP).status_code == 403
    assert (entry().actor, entry().outcome, entry().status) == ("mara", "refused", 403)


def test_logins_good_and_bad(client: Client, user: User) -> None:
    client.post("/login/", {"username": "mara", "password": "wrong-password"})
    client.post("/login/", {"username": "correct horse battery", "password": "x"})
    client.post("/login/", {"username": "mara", "password": "a-long-password"})
    client.post("/logout/")
    rows = [told(row) for row in AuditEntry.objects.order_by("id")]
    assert rows == [
        ("mara", "refused", 200, "failed login"),
        ("unknown", "refused", 200, "failed login"),
        ("mara", "done", 302, "signed in"),
        ("mara", "done", 302, "signed out"),
    ]
    assert not AuditEntry.objects.filter(target__contains="horse").exists()


def test_tokens_good_and_bad(client: Client, secret: str) -> None:
    client.get("/api/v1/dashboard?token=guessed-secret")
    client.get(f"/history?token={secret}")
    bad, good = AuditEntry.objects.order_by("id")
    assert told(bad) == ("unknown", "refused", 401, "failed token")
    assert told(good) == ("mara", "done", 302, "signed in")
    assert good.via == f"token {Token.objects.get().pk}"
    assert (bad.path, good.path) == ("/api/v1/dashboard?token=***", "/history?token=***")


def test_what_opened_a_session_is_told(client: Client, user: User, make_run: MakeRun) -> None:
    make_run()
    token, secret = issue(user, ["read", "operate"], None)
    client.get("/", {"token": secret})
    client.post("/control/new", STOP)
    client.post("/login/", {"username": "mara", "password": "a-long-password"})
    vias = AuditEntry.objects.order_by("id").values_list("via", flat=True)
    assert list(vias) == [f"token {token.pk}", f"session of token {token.pk}", "session"]


def test_a_job_of_dead_letters_names_its_letters(operator: Client) -> None:
    letters = [make(1).pk, make(2).pk]
    form = {"action": "resolve", "of": "chosen", "letter": letters, "reason": "gone", "key": KEY}
    operator.post("/dead-letters/jobs/new", form)
    made = LetterJob.objects.get().id
    chosen = ",".join(map(str, letters))
    assert entry().target == (f"made={made} action=resolve of=chosen reason=gone letter={chosen}")


def test_an_export_names_its_runs(operator: Client, make_run: MakeRun) -> None:
    runs = [str(make_run(name).id) for name in ("worker-1", "worker-2")]
    operator.post("/debug/databases/exports", {"run": runs, "format": "csv", "name": "night"})
    assert entry().target == f"name=night format=csv run={','.join(runs)}"


def test_a_token_names_its_days(root: Client, user: User) -> None:
    root.post("/tokens", {"user": "mara", "scopes": ["read", "export"], "days": "30"})
    assert entry().target == "user=mara scopes=read,export days=30"


def test_strangers_cannot_fill_the_table(client: Client) -> None:
    client.post("/control/new", STOP)
    client.post("/api/v1/control", {})
    assert not AuditEntry.objects.exists()


def test_the_admin_s_actions(root: Client, secret: str) -> None:
    number = Token.objects.get().pk
    root.post("/admin/accounts/token/", {"action": "revoke", "_selected_action": [number]})
    assert entry().target == f"action=revoke _selected_action={number}"


def broken(request: HttpRequest) -> HttpResponse:
    raise RuntimeError("broken")


@pytest.fixture
def broken_view(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    route = path("broken", broken)
    monkeypatch.setattr(urls, "urlpatterns", [route, *urls.urlpatterns])
    clear_url_caches()
    yield
    clear_url_caches()


def test_written_when_the_view_raises(operator: Client, broken_view: None) -> None:
    operator.raise_request_exception = False
    assert operator.post("/broken", {"name": "x"}).status_code == 500
    assert told(entry()) == ("mara", "failed", 500, "name=x")


def test_logged_when_it_cannot_be_stored(
    operator: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise Error("away")

    monkeypatch.setattr(AuditEntry, "save", refuse)
    monkeypatch.setattr(logging.getLogger("drakkar"), "propagate", True)
    operator.post("/control/new", STOP)
    assert "action=stop cluster=main worker=worker-1" in caplog.text


@pytest.mark.parametrize(
    "body", [b"", b"[1]", b"{", b'{"name": "a\\u0000b", "arguments": 3}', b"\xff" * 70_000]
)
def test_documents_of_any_kind(operator: Client, body: bytes) -> None:
    operator.post("/control/new", body, content_type="application/json")
    assert entry().status == 400


def entries(count: int, **columns: Any) -> None:
    now = timezone.now()
    AuditEntry.objects.bulk_create(
        AuditEntry(
            at=now - timedelta(seconds=n // 2),
            path=f"/n{n}",
            target="",
            status=200,
            **{"actor": "mara", "method": "POST", "outcome": "done", "address": "a", **columns},
        )
        for n in range(count)
    )


def test_the_page_goes_through_all_rows(
    root: Client, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    entries(120)
    found: list[str] = []
    where = "/audit"
    for _ in range(3):
        with django_assert_max_num_queries(MAX_QUERIES):
            page = read_page(root.get(where))
        found += re.findall(r'title="/n(\d+)"', page)
        older = re.search(r'rel="next" href="([^"]*)"', page)
        where = f"/audit{older[1]}" if older else ""
    assert where == ""
    assert "A page of <b>20</b> requests that changed something" in page
    assert sorted(map(int, found)) == list(range(120))


def test_the_page_s_filters(root: Client) -> None:
    entries(2)
    entries(3, actor="finn", outcome="refused", address="10.0.0.1")

    def count(query: str) -> int:
        return root.get(f"/audit?{query}").content.count(b'<tr><td class="mono')

    assert count("") == 5
    assert count("actor=finn") == count("outcome=refused") == count("address=10.0.0.1") == 3
    assert count("text=n2") == 1
    assert count("since=2100-01-01T00:00") == 0
    assert count("until=2100-01-01T00:00") == 5
    assert [root.get(f"/audit?{bad}").status_code for bad in ("since=x", "older=x")] == [400, 400]


def test_the_admin_only_shows_it(root: Client) -> None:
    entries(1)
    assert b"/n0" in root.get("/admin/accounts/auditentry/").content
    assert root.get("/admin/accounts/auditentry/add/").status_code == 403
