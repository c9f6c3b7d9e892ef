"""Tokens are issued, shown once, listed and revoked by admins."""

from __future__ import annotations

import re

import pytest
from django.contrib.auth.models import User
from django.test import Client
from pytest_django import DjangoAssertNumQueries

from drakkar_site.accounts.models import AuditEntry, Token
from drakkar_site.accounts.tokens import issue
from tests.support.reading import read_page

pytestmark = pytest.mark.django_db
MAX_QUERIES = 15
GOOD = {"user": "mara", "scopes": ["read", "export"], "days": "30"}


@pytest.fixture
def root(client: Client) -> Client:
    client.force_login(User.objects.create_superuser("root"))
    return client


def works(secret: str) -> bool:
    headers = {"Authorization": f"Bearer {secret}"}
    return Client().get("/api/v1/dashboard", headers=headers).status_code == 200


def test_the_secret_is_shown_once(root: Client, user: User) -> None:
    page = read_page(root.post("/tokens", GOOD))
    found = re.search(r"data-secret>([^<]+)<", page)
    assert found is not None
    assert works(found[1])
    assert found[1] not in read_page(root.get("/tokens"))
    token = Token.objects.get()
    assert (token.user, token.scopes) == (user, ["read", "export"])
    assert token.expires_at is not None
    assert round((token.expires_at - token.created_at).total_seconds() / 86_400) == 30
    assert AuditEntry.objects.get().target == "user=mara scopes=read,export days=30"


def test_it_may_never_expire(root: Client, user: User) -> None:
    root.post("/tokens", {**GOOD, "days": "0"})
    assert Token.objects.get().expires_at is None


@pytest.mark.parametrize(
    "bad",
    [
        {"user": "nobody"},
        {"user": "a\0b"},
        {"scopes": []},
        {"scopes": ["fly"]},
        {"days": "-1"},
        {"days": "9" * 400},
        {"days": "²"},
        {"key": "k" * 65},
        {"key": "a\0b"},
    ],
)
def test_what_cannot_be_issued(root: Client, user: User, bad: dict[str, object]) -> None:
    answer = root.post("/tokens", {**GOOD, **bad})
    assert answer.status_code == 400
    assert f"{next(iter(bad))}: expected" in read_page(answer)
    assert not Token.objects.exists()


def test_a_form_sent_again_issues_no_other(root: Client, user: User) -> None:
    form = read_page(root.get("/tokens"))
    found = re.search(r'name="key" value="([^"]+)"', form)
    assert found is not None
    first = root.post("/tokens", {**GOOD, "key": found[1]})
    assert "data-secret" in read_page(first)
    again = root.post("/tokens", {**GOOD, "key": found[1]})
    assert again.status_code == 409
    page = read_page(again)
    token = Token.objects.get()
    assert f"this form issued {token.prefix}… of mara before" in page
    assert "data-secret" not in page
    assert AuditEntry.objects.order_by("-id")[0].outcome == "refused"
    assert found[1] not in page
    assert root.post("/tokens", GOOD).status_code == root.post("/tokens", GOOD).status_code == 200
    assert Token.objects.count() == 3


def test_a_revoked_token_opens_nothing(root: Client, user: User) -> None:
    token, secret = issue(user, ["read"], None)
    assert works(secret)
    assert root.post(f"/tokens/{token.pk}/revoke")["Location"] == "/tokens"
    assert not works(secret)
    token.refresh_from_db()
    first = token.revoked_at
    root.post(f"/tokens/{token.pk}/revoke")
    token.refresh_from_db()
    assert token.revoked_at == first
    assert f"/tokens/{token.pk}/revoke" not in read_page(root.get("/tokens"))


def test_the_list_goes_through_all(
    root: Client, user: User, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    for _ in range(60):
        issue(user, ["read"], None)
    with django_assert_max_num_queries(MAX_QUERIES):
        page = read_page(root.get("/tokens"))
    older = re.search(r'rel="next" href="([^"]*)"', page)
    assert older is not None
    rest = read_page(root.get(f"/tokens{older[1]}"))
    assert [each.count("/revoke") for each in (page, rest)] == [50, 10]
    assert root.get("/tokens?older=x").status_code == 400
