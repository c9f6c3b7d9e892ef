"""Nothing shows without a session or a token, and no token is ever written down."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from django.contrib.admin import site
from django.contrib.auth.models import Group, User
from django.contrib.sessions.models import Session
from django.core.management import CommandError, call_command
from django.test import Client
from django.utils import timezone
from pydantic import ValidationError
from pytest_django import Settings

from drakkar_site.accounts.masking import MaskTokens, _MaskedAccessLog
from drakkar_site.accounts.models import FailedAccess, Token
from drakkar_site.accounts.socket_access import key_of, still_open
from drakkar_site.accounts.throttle import LIMIT, note_failure, wait_seconds
from drakkar_site.accounts.tokens import issue
from drakkar_site.config.tree import SiteConfig
from drakkar_site.sockets import may_come_from
from recorder.models import Event
from tests.web.conftest import MakeRun, make_events

pytestmark = pytest.mark.django_db
NOW = datetime(2026, 3, 14, 3, 0, tzinfo=UTC)
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
def test_open_paths_ask_for_no_login(client: Client, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 200
    answer.close()


@pytest.mark.parametrize("path", ["/", "/history", "/api/v1/dashboard", "/api/v1/docs", "/metrics"])
def test_a_bearer_token_opens_pages_and_api(client: Client, secret: str, path: str) -> None:
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


def test_five_failures_a_minute(client: Client, user: User, secret: str) -> None:
    for _ in range(LIMIT - 1):
        assert client.get("/api/v1/dashboard?token=wrong").status_code == 401
    data = {"username": "mara", "password": "wrong"}
    assert client.post("/login/", data).status_code == 200
    for answer in (client.post("/login/", data), client.get("/api/v1/dashboard?token=wrong")):
        assert answer.status_code == 429
        assert 50 <= int(answer["Retry-After"]) <= 60
    assert client.get(f"/api/v1/dashboard?token={secret}").status_code == 200


def test_failures_are_forgotten_after_a_minute(db: None) -> None:
    for second in range(LIMIT):
        note_failure("10.0.0.1", NOW + timedelta(seconds=second))
    assert wait_seconds("10.0.0.1", NOW + timedelta(seconds=10)) == 50
    assert wait_seconds("10.0.0.2", NOW + timedelta(seconds=10)) == 0
    assert wait_seconds("10.0.0.1", NOW + timedelta(seconds=60)) == 0
    note_failure("10.0.0.2", NOW + timedelta(seconds=90))
    assert FailedAccess.objects.count() == 1


@pytest.mark.parametrize(
    ("address", "other", "is_same"),
    [
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("::ffff:10.0.0.1", "10.0.0.1", True),
        ("::ffff:10.0.0.1", "::ffff:10.0.0.2", False),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        ("unknown", "10.0.0.1", False),
    ],
)
def test_a_network_of_one_customer_is_one_address(
    db: None, address: str, other: str, is_same: bool
) -> None:
    for _ in range(LIMIT):
        note_failure(address)
    assert bool(wait_seconds(other)) is is_same


def test_logins_that_succeed_do_not_count(client: Client, user: User) -> None:
    for _ in range(LIMIT + 1):
        data = {"username": "mara", "password": "a-long-password"}
        assert client.post("/login/", data).status_code == 302
    assert FailedAccess.objects.count() == 0


@pytest.mark.parametrize("before", ["//", "///", "/%5C", "/%09/"])
def test_the_token_s_redirect_stays_on_the_site(client: Client, secret: str, before: str) -> None:
    answer = client.get(f"/?token={secret}", PATH_INFO=f"{unquote(before)}evil.example/x")
    assert answer.status_code == 302
    assert not answer["Location"].startswith(("//", "/\\", "/\t"))
    assert urlsplit(answer["Location"]).netloc == ""


def test_a_password_makes_another_session_than_a_token_s(client: Client, secret: str) -> None:
    client.get("/", {"token": secret})
    kept = client.cookies["sessionid"].value
    client.post("/login/", {"username": "mara", "password": "a-long-password"})
    assert client.cookies["sessionid"].value != kept
    assert not client.session.exists(kept)


def test_the_admin_has_no_login_of_its_own(client: Client, user: User) -> None:
    _, secret = issue(user, ["read", "admin"], None)
    client.get("/", {"token": secret})
    for answer in (client.get("/admin/login/"), client.post("/admin/login/", {"username": "x"})):
        assert answer["Location"] == "/login/?next=/admin/"


def with_fixed_token(settings: Settings, token: str) -> None:
    site = settings.DRAKKAR_STATE.site.model_copy(update={"auth_token": token})
    settings.DRAKKAR_STATE = replace(settings.DRAKKAR_STATE, site=site)


def test_the_fixed_token_ends_with_its_user(client: Client, settings: Settings) -> None:
    with_fixed_token(settings, "a-fixed-token")
    headers = {"Authorization": "Bearer a-fixed-token"}
    assert client.get("/api/v1/dashboard", headers=headers).status_code == 200
    User.objects.update(is_active=False)
    assert client.get("/api/v1/dashboard", headers=headers).status_code == 401


def test_scrapes_from_an_allowed_network(client: Client, settings: Settings) -> None:
    site = settings.DRAKKAR_STATE.site.model_copy(update={"metrics_allow": ("127.0.0.0/8",)})
    settings.DRAKKAR_STATE = replace(settings.DRAKKAR_STATE, site=site)
    assert client.get("/metrics").status_code == 200
    assert client.get("/metrics", REMOTE_ADDR="10.0.0.1").status_code == 401


def test_a_malformed_network_is_an_error_of_the_configuration() -> None:
    with pytest.raises(ValidationError, match="metrics_allow"):
        SiteConfig(database_url="postgres://h/d", secret_key="s" * 32, metrics_allow=("10.0.0",))


@pytest.mark.parametrize(
    ("origin", "host", "may_come"),
    [
        ("http://localhost:8000", "localhost:8000", True),
        ("http://localhost:8001", "localhost:8000", False),
        ("https://localhost", "localhost:443", True),
        ("http://elsewhere.example", "localhost:8000", False),
        ("http://elsewhere.example", "elsewhere.example", False),
        ("null", "localhost:8000", False),
        ("http://localhost:x", "localhost:8000", False),
    ],
)
def test_a_socket_comes_from_our_own_origins_only(origin: str, host: str, may_come: bool) -> None:
    headers = [(b"origin", origin.encode()), (b"host", host.encode())]
    scope = {"headers": headers, "query_string": b"token=whatever"}
    assert may_come_from(scope) is may_come


def test_a_socket_of_a_page_without_tls_is_nobody_s_own_where_the_site_has_it(
    settings: Settings,
) -> None:
    settings.SESSION_COOKIE_SECURE = True
    for scheme, may_come in (("http", False), ("https", True)):
        headers = [(b"origin", f"{scheme}://localhost".encode()), (b"host", b"localhost")]
        assert may_come_from({"headers": headers, "query_string": b""}) is may_come


def test_a_login_leads_to_the_page_that_was_asked_for(client: Client, user: User) -> None:
    data = {"username": "mara", "password": "a-long-password", "next": "/history"}
    assert client.post("/login/", data)["Location"] == "/history"
    assert client.get("/history").status_code == 200


def test_a_password_outranks_a_token_that_has_ended(client: Client, secret: str) -> None:
    client.get("/", {"token": secret})
    Token.objects.update(revoked_at=timezone.now())
    client.post("/login/", {"username": "mara", "password": "a-long-password"})
    assert client.get("/").status_code == 200


@pytest.mark.parametrize(("role", "scope"), [("viewer", "admin"), ("admin", "read")])
def test_a_password_s_rights_are_the_user_s_whatever_a_token_s_were(
    client: Client, user: User, role: str, scope: str
) -> None:
    user.groups.add(Group.objects.get_or_create(name=role)[0])
    _, secret = issue(user, ["read", scope], None)
    client.get("/", {"token": secret})
    assert client.get("/audit").status_code == (200 if scope == "admin" else 403)
    Token.objects.update(revoked_at=timezone.now())
    client.post("/login/", {"username": "mara", "password": "a-long-password"})
    assert client.get("/audit").status_code == (200 if role == "admin" else 403)


def may_look_by_session(client: Client) -> bool:
    cookie = f"sessionid={client.cookies['sessionid'].value}".encode()
    return key_of({"query_string": b"", "headers": [(b"cookie", cookie)]}) is not None


@pytest.mark.parametrize(("scopes", "may"), [(["read"], True), (["admin"], False)])
def test_a_socket_by_session_needs_the_right_to_read(
    client: Client, user: User, scopes: list[str], may: bool
) -> None:
    _, secret = issue(user, scopes, None)
    client.get(f"/{'' if may else 'audit'}", {"token": secret})
    assert may_look_by_session(client) is may


def test_another_password_ends_a_socket_by_session(client: Client, user: User) -> None:
    client.force_login(user)
    assert may_look_by_session(client)
    changed = User.objects.get(pk=user.pk)
    changed.set_password("another-long-password")
    changed.save()
    assert not may_look_by_session(client)


def test_a_session_s_time_ends_a_socket(client: Client, user: User) -> None:
    client.force_login(user)
    Session.objects.update(expire_date=timezone.now())
    assert not may_look_by_session(client)


def test_an_open_socket_by_token_is_no_attempt(secret: str) -> None:
    scope = {"query_string": f"token={secret}".encode(), "headers": [], "client": ["10.0.0.1", 1]}
    key = key_of(scope)
    assert key is not None
    for _ in range(LIMIT):
        note_failure("10.0.0.1")
    assert still_open([key]) == {key}
    assert key_of(scope) == key
    Token.objects.update(revoked_at=timezone.now())
    assert still_open([key]) == set()
    assert key_of(scope) is None
    assert FailedAccess.objects.count() == LIMIT


@pytest.mark.parametrize("after", ["another-token", ""])
def test_rotating_the_fixed_token_ends_its_sessions(
    client: Client, settings: Settings, after: str
) -> None:
    with_fixed_token(settings, "a-fixed-token")
    client.get("/", {"token": "a-fixed-token"})
    assert client.get("/").status_code == 200
    assert may_look_by_session(client)
    with_fixed_token(settings, after)
    assert client.get("/").status_code == 302
    assert not may_look_by_session(client)


def test_pages_have_the_security_headers(client: Client, secret: str) -> None:
    answer = client.get("/", headers={"Authorization": f"Bearer {secret}"})
    policy = answer["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert "script-src 'self'" in policy
    assert answer["Referrer-Policy"] == "same-origin"
    assert answer["X-Frame-Options"] == "DENY"
    page = answer.content.decode()
    assert " style=" not in page
    assert "<style" not in page


@pytest.mark.parametrize("path", ["/", "/login/", "/audit", "/nowhere", "/api/v1/dashboard"])
@pytest.mark.parametrize("is_known", [True, False])
def test_no_answer_is_kept_or_embedded(
    client: Client, user: User, path: str, is_known: bool
) -> None:
    if is_known:
        client.force_login(user)
    answer = client.get(path)
    assert "no-store" in answer["Cache-Control"]
    assert answer["Cross-Origin-Resource-Policy"] == "same-origin"
    assert answer["Cross-Origin-Opener-Policy"] == "same-origin"
    assert "camera=()" in answer["Permissions-Policy"]
    assert "frame-ancestors 'none'" in answer["Content-Security-Policy"]


@pytest.mark.parametrize(
    "text",
    [
        "GET /x?token=abc123&y=1",
        "next=%2Fx%3Ftoken%3Dabc123",
        "Bearer abc123",
        "GET /x?t%6Fken=abc123",
        "GET /x?%74%6f%4B%65%6E=abc123&y=1",
    ],
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


def test_create_token_makes_a_token_that_opens(user: User, client: Client) -> None:
    out = io.StringIO()
    call_command("create_token", "--user", "mara", "--json", stdout=out)
    token = json.loads(out.getvalue())["token"]
    assert client.get(f"/api/v1/dashboard?token={token}").status_code == 200


@pytest.mark.parametrize("bad", [["--scopes", "fly"], ["--days", "-1"], ["--user", "nobody"]])
def test_create_token_refuses_bad_arguments(user: User, bad: list[str]) -> None:
    with pytest.raises(CommandError) as caught:
        call_command("create_token", "--user", "mara", *bad)
    assert caught.value.returncode == 2


def test_tokens_are_revoked_in_the_admin(client: Client, secret: str) -> None:
    client.force_login(User.objects.create_superuser("root"))
    page = client.get("/admin/accounts/token/").content.decode()
    assert secret[:8] in page
    asked = {"action": "revoke", "_selected_action": [Token.objects.get().pk]}
    client.post("/admin/accounts/token/", asked)
    assert Token.objects.get().revoked_at is not None
    headers = {"Authorization": f"Bearer {secret}"}
    assert Client().get("/api/v1/dashboard", headers=headers).status_code == 401


def test_the_admin_writes_times_to_the_second(client: Client, make_run: MakeRun) -> None:
    make_events(make_run(), 1)
    client.force_login(User.objects.create_superuser("root"))
    assert b"2026-03-14 03:00:00 UTC" in client.get("/admin/recorder/event/").content


def test_the_admin_opens_the_pages(client: Client) -> None:
    client.force_login(User.objects.create_superuser("root"))
    page = client.get("/admin/").content.decode()
    for path in ("/partitions", "/sinks", "/live", "/trace"):
        assert f'href="{path}"' in page


def of_role(user: User, role: str) -> User:
    user.groups.add(Group.objects.get_or_create(name=role)[0])
    return user


def test_the_role_alone_opens_the_admin(client: Client, user: User) -> None:
    client.force_login(of_role(user, "admin"))
    page = client.get("/admin/").content.decode()
    for path in ("auth/user/", "recorder/event/", "accounts/token/"):
        assert f'href="/admin/{path}"' in page
    asked = {"username": "kim", "password1": "a-long-password", "password2": "a-long-password"}
    client.post("/admin/auth/user/add/", {**asked, "usable_password": "true"})
    assert User.objects.filter(username="kim").exists()
    user.groups.clear()
    assert client.get("/admin/").status_code == 403
    of_role(user, "admin")
    User.objects.filter(pk=user.pk).update(is_active=False)
    assert client.get("/admin/")["Location"] == "/login/?next=%2Fadmin%2F"


@pytest.mark.parametrize("role", ["viewer", "operator"])
def test_no_other_role_opens_the_admin(client: Client, user: User, role: str) -> None:
    User.objects.filter(pk=user.pk).update(is_staff=True)
    client.force_login(of_role(user, role))
    assert client.get("/admin/").status_code == 403
    assert not User.objects.get(pk=user.pk).has_perm("auth.view_user")


@pytest.mark.parametrize(
    ("role", "scopes", "status"),
    [
        ("admin", ["read", "admin"], 200),
        ("admin", ["read"], 403),
        ("operator", ["read", "admin"], 302),  # to the admin's own login: the user lacks the role
    ],
)
def test_a_token_opens_the_admin_by_its_scope_and_its_user_s_role(
    client: Client, user: User, role: str, scopes: list[str], status: int
) -> None:
    _, secret = issue(of_role(user, role), scopes, None)
    headers = {"Authorization": f"Bearer {secret}"}
    assert Client().get("/admin/", headers=headers).status_code == status
    client.get("/", {"token": secret})
    assert client.get("/admin/").status_code == status


def test_the_admin_of_a_role_asks_for_its_groups_once(
    client: Client, user: User, django_assert_max_num_queries: Callable[[int], Any]
) -> None:
    client.force_login(of_role(user, "admin"))
    with django_assert_max_num_queries(8):
        assert client.get("/admin/").status_code == 200


@pytest.mark.parametrize("path", ["/audit", "/config", "/tokens", "/history/export"])
def test_a_path_before_the_site_s_opens_nothing_more(client: Client, user: User, path: str) -> None:
    client.force_login(user)
    assert client.get(path, SCRIPT_NAME="/before").status_code == 403


def test_a_path_before_the_site_s_does_not_turn_a_page_into_the_login(client: Client) -> None:
    assert client.get("/", SCRIPT_NAME="/login").status_code == 302


def test_every_list_of_the_admin_comes_fifty_rows_at_a_time(admin_client: Client) -> None:
    User.objects.bulk_create(User(username=f"u{number:02}") for number in range(60))
    assert admin_client.get("/admin/auth/user/").content.count(b'name="_selected_action"') == 50
    assert {each.list_per_page for each in site._registry.values()} == {50}


def test_the_admin_masks_command_lines(admin_client: Client, make_run: MakeRun) -> None:
    make_events(make_run(), 1, kind="task_started", args=["--token", "unseen", "-v"])
    event = Event.objects.get()
    page = admin_client.get(f"/admin/recorder/event/{event.pk}/change/").content
    assert b"--token *** -v" in page
    assert b"unseen" not in page
