"""Nothing shows without a session or a token, and no token is ever written down."""

from __future__ import annotations

import io
import json
import logging
from datetime import datetime, timedelta

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.test import Client
from django.utils import timezone

from drakkar_site.accounts.masking import MaskTokens, _MaskedAccessLog
from drakkar_site.accounts.models import Token
from drakkar_site.accounts.throttle import LIMIT
from drakkar_site.accounts.tokens import issue

pytestmark = pytest.mark.django_db
PAGES = ["/", "/history", "/admin/", "/admin/recorder/event/", "/nowhere"]
MACHINES = ["/api/v1/dashboard", "/api/v1/openapi.json", "/api/v1/docs", "/api/x", "/metrics"]
OPEN = ["/healthz", "/login/", "/static/drakkar/drakkar.css"]


@pytest.mark.parametrize("path", PAGES)
def test_pages_lead_to_the_login(client: Client, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 302
    assert answer["Location"].startswith("/login/?next=")


@pytest.mark.parametrize("path", MACHINES)
def test_programs_get_a_problem(client: Client, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 401
    assert answer["Content-Type"] == "application/problem+json"
    assert answer["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize("path", OPEN)
def test_open_paths(client: Client, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 200
    answer.close()


@pytest.mark.parametrize("path", ["/", "/history", "/api/v1/dashboard", "/api/v1/docs", "/metrics"])
def test_bearer_opens(client: Client, secret: str, path: str) -> None:
    assert client.get(path, headers={"Authorization": f"Bearer {secret}"}).status_code == 200


def test_token_in_the_query(client: Client, secret: str) -> None:
    assert client.get(f"/api/v1/dashboard?token={secret}").status_code == 200
    assert client.get("/history").status_code == 302
    answer = client.get(f"/history?token={secret}&kind=consumed")
    assert (answer.status_code, answer["Location"]) == (302, "/history?kind=consumed")
    assert client.get("/history?kind=consumed").status_code == 200


def test_revoking_ends_the_session_too(client: Client, secret: str) -> None:
    client.get(f"/?token={secret}")
    assert client.get("/").status_code == 200
    Token.objects.update(revoked_at=timezone.now())
    assert client.get("/").status_code == 302
    assert client.get("/login/").status_code == 200
    assert client.get(f"/api/v1/dashboard?token={secret}").status_code == 401


def test_expired_and_narrow_tokens(client: Client, user: User) -> None:
    _, old = issue(user, ["read"], timezone.now() - timedelta(seconds=1))
    assert client.get(f"/api/v1/dashboard?token={old}").status_code == 401
    _, narrow = issue(user, ["export"], None)
    assert client.get(f"/api/v1/dashboard?token={narrow}").status_code == 403


def test_a_viewer_does_not_see_the_admin(client: Client, secret: str) -> None:
    assert client.get("/admin/", headers={"Authorization": f"Bearer {secret}"}).status_code == 403


def test_a_session_without_the_right_is_told(client: Client, user: User) -> None:
    client.force_login(user)
    assert client.get("/admin/").status_code == 403
    assert b"/admin/" not in client.get("/").content
    assert client.post("/logout/").status_code == 302


def test_only_the_digest_is_stored(secret: str) -> None:
    stored = Token.objects.get()
    assert secret not in (stored.digest, stored.prefix)
    assert stored.prefix == secret[:8]


def test_five_failures_a_minute(
    client: Client, user: User, secret: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("drakkar_site.accounts.throttle.time.time", lambda: 1_200_000_000.0)
    for _ in range(LIMIT - 1):
        assert client.get("/api/v1/dashboard?token=wrong").status_code == 401
    data = {"username": "mara", "password": "wrong"}
    assert client.post("/login/", data).status_code == 200
    for answer in (client.post("/login/", data), client.get(f"/api/v1/dashboard?token={secret}")):
        assert answer.status_code == 429
        assert answer["Retry-After"] == "60"


def test_login(client: Client, user: User) -> None:
    data = {"username": "mara", "password": "a-long-password", "next": "/history"}
    assert client.post("/login/", data)["Location"] == "/history"
    assert client.get("/history").status_code == 200


def test_a_password_outranks_a_token_that_has_ended(client: Client, secret: str) -> None:
    client.get("/", {"token": secret})
    Token.objects.update(revoked_at=timezone.now())
    client.post("/login/", {"username": "mara", "password": "a-long-password"})
    assert client.get("/").status_code == 200


def test_headers(client: Client, secret: str) -> None:
    answer = client.get("/", headers={"Authorization": f"Bearer {secret}"})
    policy = answer["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert "script-src 'self'" in policy
    assert answer["Referrer-Policy"] == "same-origin"
    assert answer["X-Frame-Options"] == "DENY"
    page = answer.content.decode()
    assert " style=" not in page
    assert "<style" not in page


@pytest.mark.parametrize(
    "text", ["GET /x?token=abc123&y=1", "next=%2Fx%3Ftoken%3Dabc123", "Bearer abc123"]
)
def test_records_are_masked(text: str) -> None:
    record = logging.LogRecord("x", logging.INFO, "", 0, "said %s", (text,), None)
    assert MaskTokens().filter(record)
    assert "abc123" not in record.getMessage()


def test_access_log_is_masked() -> None:
    stream = io.StringIO()
    _MaskedAccessLog(stream).write_entry("h", datetime.now(), request="GET /?token=abc123")  # noqa: DTZ005
    assert "token=***" in stream.getvalue()
    assert "abc123" not in stream.getvalue()


def test_create_token(user: User, client: Client) -> None:
    out = io.StringIO()
    call_command("create_token", "--user", "mara", "--json", stdout=out)
    token = json.loads(out.getvalue())["token"]
    assert client.get(f"/api/v1/dashboard?token={token}").status_code == 200


@pytest.mark.parametrize("bad", [["--scopes", "fly"], ["--days", "-1"], ["--user", "nobody"]])
def test_create_token_refuses(user: User, bad: list[str]) -> None:
    with pytest.raises(CommandError) as caught:
        call_command("create_token", "--user", "mara", *bad)
    assert caught.value.returncode == 2
