"""Every route against every role: a route without a rule here fails, so none can be forgotten."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, cast

import pytest
from django.apps import apps
from django.contrib.auth.models import Group, User
from django.http import HttpResponse
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver

from drakkar_site.accounts.roles import ROLES, SCOPES_OF_ROLE
from drakkar_site.accounts.tokens import issue
from tests.support.factories import RunFactory

pytestmark = pytest.mark.django_db

RULES = (
    # route, scope to read, scope to send; "" is open to everybody, history is nobody's to change
    (r"healthz|favicon\.ico", "", ""),
    (r"login/", "", ""),
    (r"logout/", "read", "read"),
    (r"admin/(recorder|sinks|workers|accounts)/\w+/(add|x/delete)/", "nobody", "nobody"),
    (r"admin/autocomplete/", "nobody", "admin"),
    (r"admin/(recorder|sinks|workers|accounts)/\w+/x/change/", "admin", "nobody"),
    (r"admin/.*", "admin", "admin"),
    (r"metrics", "read", "operate"),
    (r"(debug/databases|api/v1)/exports(/.*)?|history/export", "export", "export"),
    (r"api/.*", "read", "operate"),
    (r"history/views(/.*)?", "read", "read"),
    (r"|workers|versions|sinks|live|history|debug|topics|probe|go|databases", "read", "operate"),
    (r"(partitions|workers|trace|task|history|debug|trends)(/.*)?", "read", "operate"),
    (r"(exports|databases|dead-letters|reruns|failures)(/.*)?", "read", "operate"),
    (r"control/(new|partitions)|findings/mark", "operate", "operate"),
    (r"notifications/test", "admin", "admin"),
    (r"notifications|findings/unmark", "read", "operate"),
    (r"control(/[0-9a-f-]+)?", "read", "operate"),
    (r"(audit|config|tokens)(/.*)?", "admin", "admin"),
)  # fmt: skip
"""What each route needs, as it was meant; the code under test is not asked."""

SAMPLES = {"int": "1", "str": "x", "path": "x", "slug": "x"}
SAMPLES["uuid"] = SAMPLES["uuidstr"] = "00000000-0000-0000-0000-000000000000"
OF_REGEX = {"^api/": "api/x", "(?P<url>.*)$": "x", "^(?P<app_label>": "auth/"}
WAYS = ("session", "bearer", "query")


def routes() -> Iterator[str]:
    """The path of every leaf of the URL map, arguments filled in."""
    yield from _leaves(get_resolver().url_patterns, "")


def _leaves(patterns: list[URLPattern | URLResolver], before: str) -> Iterator[str]:
    for each in patterns:
        text = str(each.pattern)
        path = before + (_of_regex(text) or re.sub(r"<(?:(\w+):)?\w+>", _sample, text))
        if isinstance(each, URLResolver):
            yield from _leaves(each.url_patterns, path)
        else:
            yield path


def _of_regex(text: str) -> str | None:
    return next((path for start, path in OF_REGEX.items() if text.startswith(start)), None)


def _sample(found: re.Match[str]) -> str:
    return SAMPLES[found[1] or "str"]


ROUTES = sorted(set(routes()))


def rule_of(path: str) -> tuple[str, str]:
    fitting = [(read, send) for route, read, send in RULES if re.fullmatch(route, path)]
    assert fitting, f"no rule for the route {path!r}: say in RULES who may open it"
    return fitting[0]


def meant(path: str, method: str, role: str | None, way: str) -> str:
    """What has to happen: passes, login, 401 or 403."""
    scope = rule_of(path)[method == "post"]
    is_known = role is not None and not (way == "query" and method == "post")
    if scope == "":
        return "passes"
    if not is_known:
        return "401" if path.startswith("api/") or path == "metrics" else "login"
    assert role is not None
    return "passes" if scope in SCOPES_OF_ROLE[role] else "403"


def seen(answer: HttpResponse) -> str:
    logins = ("/login/?next=", "/admin/login/")
    if answer.status_code == 302 and answer["Location"].startswith(logins):
        return "login"
    if answer.status_code in (401, 403):
        return str(answer.status_code)
    assert answer.status_code < 500
    return "passes"


@pytest.fixture
def accounts(db: None) -> dict[str, tuple[User, str]]:
    """A person of each role with a token of all the role's scopes."""
    found = {}
    for role in ROLES:
        user = User.objects.create_user(f"the-{role}")
        user.groups.add(Group.objects.get_or_create(name=role)[0])
        found[role] = user, issue(user, SCOPES_OF_ROLE[role], None)[1]
    return found


DOWNLOADS = ("history/export", f"debug/databases/exports/{SAMPLES['uuid']}/file")
"""Pages' routes that take a token as it is, as the API does."""


def ask(path: str, method: str, account: tuple[User, str] | None, way: str) -> HttpResponse:
    client, headers, query = Client(), {}, ""
    if account is not None and way == "session":
        client.force_login(account[0])
    elif account is not None and way == "bearer":
        headers["Authorization"] = f"Bearer {account[1]}"
    elif account is not None:
        query = f"?token={account[1]}"
    send = client.get if method == "get" else client.post
    answer = cast(HttpResponse, send(f"/{path}{query}", headers=headers))
    if path in DOWNLOADS:
        assert "sessionid" not in answer.cookies
        assert answer.headers.get("Location") != f"/{path}"
    elif query and answer.headers.get("Location") == f"/{path}":  # the token became a session
        return cast(HttpResponse, client.get(f"/{path}"))
    return answer


@pytest.mark.parametrize("path", ROUTES)
def test_every_route_for_every_role(
    accounts: dict[str, tuple[User, str]], path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The configured Kafka is away here; nobody wants to see how long it is waited for.
    monkeypatch.setattr("workers.broker.topic_reader.REQUEST_SECONDS", 0.1)
    wrong = []
    for method in ("get", "post"):
        for role in (None, *ROLES):
            for way in WAYS if role else WAYS[:1]:
                answer = ask(path, method, accounts[role] if role else None, way)
                wanted = meant(path, method, role, way)
                if seen(answer) != wanted:
                    wrong.append(
                        f"{method} {path} as {role} by {way}: {seen(answer)}, not {wanted}"
                    )
    assert wrong == []


CHANGING = ("POST", "PUT", "PATCH", "DELETE")
OWN_TRACES = frozenset({"auditentry", "failedaccess", "session", "savedview"})
"""Rows that say that somebody was there, or that a reader keeps for himself."""
FORM = {
    "action": "stop", "cluster": "main", "worker": "worker-1", "format": "csv", "name": "x",
    "of": "all", "rate": "1", "reason": "r", "up_to": "9", "key": "0" * 32, "user": "the-viewer",
    "scopes": "read", "value": "v", "key_of_form": "0" * 32, "encoding": "text",
}  # fmt: skip
"""What some form or other asks for."""


def everything() -> dict[str, list[Any]]:
    """Every row of every table, without the traces of visits."""
    kept = [each for each in apps.get_models() if each._meta.model_name not in OWN_TRACES]
    left_out = {"last_used_at", "last_login"}
    return {
        each._meta.label: list(
            each._default_manager.order_by("pk").values_list(
                *(f.name for f in each._meta.concrete_fields if f.name not in left_out)
            )
        )
        for each in kept
    }


def test_a_viewer_changes_nothing_by_any_route_and_method(
    accounts: dict[str, tuple[User, str]],
) -> None:
    RunFactory.create(worker="worker-1", beat__state="ready")
    viewer, operator = Client(), Client()
    viewer.force_login(accounts["viewer"][0])
    operator.force_login(accounts["operator"][0])
    before, passed = everything(), set()
    for path in ROUTES:
        for method in CHANGING:
            send = getattr(viewer, method.lower())
            form: Any = FORM if method == "POST" else "{}"
            if send(f"/{path}", form).status_code < 400:
                passed.add(path)
                viewer.force_login(accounts["viewer"][0])
    assert everything() == before
    assert passed == {"login/", "logout/", "healthz", "favicon.ico", "history/views"}
    operator.post("/control/new", FORM)
    assert everything() != before
