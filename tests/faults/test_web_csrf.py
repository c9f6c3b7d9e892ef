"""Fault H1: a page of elsewhere pressed buttons with the session of a reader."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, cast

import pytest
from django.contrib.auth.models import User
from django.http import HttpResponse
from django.test import Client

from drakkar_site.accounts.models import FailedAccess
from drakkar_site.accounts.tokens import issue
from drakkar_site.api import api
from tests.support.factories import RunFactory
from tests.web.test_routes import FORM, ROUTES, everything
from workers.models import ControlRequest

pytestmark = pytest.mark.django_db
UNSAFE = ("POST", "PUT", "PATCH", "DELETE")
OWN = "http://testserver"
ELSEWHERE = "http://testserver:8001"
FORGED = ("csrf", "X-CSRFToken", "not of this site")
WITHOUT_VIEW = {"api/x"}
"""Paths that no method leads further than to "there is no such route"."""


def is_refused_as_forged(answer: HttpResponse) -> bool:
    text = answer.content.decode()
    return answer.status_code == 403 and any(sign in text for sign in FORGED)


def operations() -> Iterator[tuple[str, str]]:
    """Every unsafe operation that the API's document names, arguments filled in by the map."""
    for path, each in api.get_openapi_schema()["paths"].items():
        for method in each:
            if method.upper() in UNSAFE:
                yield method.upper(), path


class Reader:
    """Somebody who is signed in, with a browser that checks."""

    def __init__(self, user: User, **options: Any) -> None:
        self.client = Client(enforce_csrf_checks=True, raise_request_exception=False, **options)
        self.client.force_login(user)
        self.client.get("/tokens")  # a page with a form sets the cookie
        self.token = self.client.cookies["csrftoken"].value

    def send(self, method: str, path: str, **headers: str) -> HttpResponse:
        """A form to a page, the same as a document to the API."""
        is_form = method == "POST" and not path.startswith("/api/")
        kind = {} if is_form else {"content_type": "application/json"}
        send = getattr(self.client, method.lower())
        return cast(HttpResponse, send(path, FORM, headers=headers, **kind))


@pytest.fixture
def reader(admin_user: User) -> Reader:
    """An admin, who may do everything."""
    return Reader(admin_user)


@pytest.mark.slow
def test_no_route_takes_what_is_sent_without_token_or_from_elsewhere(reader: Reader) -> None:
    RunFactory.create(worker="worker-1", beat__state="ready")
    before, passed = everything(), []
    for path in ROUTES:
        for method in UNSAFE:
            for headers in (
                {},
                {"Origin": OWN},
                {"Origin": ELSEWHERE, "X-CSRFToken": reader.token},
                {"Origin": "null", "X-CSRFToken": reader.token},
            ):
                answer = reader.send(method, f"/{path}", **headers)
                if not is_refused_as_forged(answer) and path not in WITHOUT_VIEW:
                    passed.append(f"{method} /{path} {headers}: {answer.status_code}")
    assert passed == []
    assert everything() == before


def test_every_operation_of_the_document_is_refused_too(reader: Reader) -> None:
    found = list(operations())
    assert {path for _, path in found} >= {"/api/v1/control", "/api/v1/exports"}
    for method, path in found:
        place = re.sub(r"{\w+}", "1", path)
        answer = reader.send(method, place, Origin=ELSEWHERE, **{"X-CSRFToken": reader.token})
        assert is_refused_as_forged(answer), (method, path)


def test_the_api_by_session_needs_the_site_s_own_origin(reader: Reader) -> None:
    RunFactory.create(worker="worker-1", beat__state="ready")
    body = {"cluster": "main", "worker": "worker-1", "action": "pause_intake"}

    def ask(**headers: str) -> int:
        answer = reader.client.post(
            "/api/v1/control", body, content_type="application/json", headers=headers
        )
        return answer.status_code

    assert ask(**{"X-CSRFToken": reader.token}) == 403
    assert ask(**{"X-CSRFToken": reader.token, "Origin": ELSEWHERE}) == 403
    assert ask(Origin=OWN) == 403
    assert not ControlRequest.objects.exists()
    assert ask(**{"X-CSRFToken": reader.token, "Origin": OWN}) < 300
    assert ControlRequest.objects.count() == 1


def test_a_bearer_token_needs_neither(admin_user: User) -> None:
    _, secret = issue(admin_user, ["read", "operate"], None)
    RunFactory.create(worker="worker-1", beat__state="ready")
    client = Client(enforce_csrf_checks=True)
    body = {"cluster": "main", "worker": "worker-1", "action": "pause_intake"}
    answer = client.post(
        "/api/v1/control",
        body,
        content_type="application/json",
        headers={"Authorization": f"Bearer {secret}"},
    )
    assert answer.status_code < 300
    refused = client.post(
        f"/api/v1/control?token={secret}",
        body,
        content_type="application/json",
        headers={"Origin": ELSEWHERE},
    )
    assert refused.status_code == 401
    assert ControlRequest.objects.count() == 1


def test_what_a_bearer_token_of_one_sends_is_not_the_session_s_of_another(reader: Reader) -> None:
    answer = reader.send("POST", "/api/v1/control", Authorization="Bearer wrong", Origin=ELSEWHERE)
    assert answer.status_code == 401
    answer = reader.send("POST", "/api/v1/control", Authorization="Basic abc", Origin=ELSEWHERE)
    assert answer.status_code == 403


def test_a_document_sent_as_a_form_is_refused_not_broken(reader: Reader) -> None:
    answer = reader.client.post("/api/v1/control", FORM, headers={"Origin": OWN})
    assert answer.status_code == 403
    headers = {"Origin": OWN, "X-CSRFToken": reader.token}
    answer = reader.client.post("/api/v1/control", FORM, headers=headers)
    assert answer.status_code in (400, 422)


def test_a_forged_login_uses_up_nobody_s_attempts(db: None) -> None:
    client = Client(enforce_csrf_checks=True)
    for _ in range(6):
        form = {"username": "x", "password": "y"}
        assert client.post("/login/", form, headers={"Origin": ELSEWHERE}).status_code == 403
    assert not FailedAccess.objects.exists()


def test_a_foreign_page_signs_nobody_out(reader: Reader) -> None:
    assert reader.send("POST", "/logout/", Origin=ELSEWHERE).status_code == 403
    assert reader.client.get("/").status_code == 200
    own = {"Origin": OWN, "X-CSRFToken": reader.token}
    assert reader.send("POST", "/logout/", **own).status_code == 302
    assert reader.client.get("/").status_code == 302


@pytest.mark.slow
def test_nothing_is_changed_by_looking(reader: Reader) -> None:
    RunFactory.create(worker="worker-1", beat__state="ready")
    before = everything()
    for path in ROUTES:
        if path != "healthz":
            reader.client.get(f"/{path}")
            reader.client.head(f"/{path}")
    assert everything() == before
