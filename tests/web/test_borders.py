"""Whatever stands in an address, a form or a document: neither pages nor API fail at it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from django.contrib.admin import site
from django.contrib.auth.models import User
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver
from hypothesis import HealthCheck, given
from hypothesis import settings as profile
from hypothesis import strategies as st

from drakkar_site.accounts.models import SCOPES
from drakkar_site.accounts.tokens import issue
from drakkar_site.api import api
from tests.support.factories import Story, make_run

pytestmark = pytest.mark.django_db
QUICK = profile(
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
NAMES = (
    "action", "after", "all", "at", "before", "cluster", "encoding", "events", "format", "has_key",
    "headers", "key", "key_of_form", "kind", "label", "last", "letter", "message", "name", "newer",
    "next", "of", "offset", "older", "page", "partition", "q", "rate", "reason", "recent",
    "request", "run", "since", "sort", "source", "stage", "state", "target", "task", "task_id",
    "text", "timestamp", "token", "topic", "until", "up_to", "value", "way", "worker", "days",
    "scopes", "user", "sink", "decision", "start", "username", "password", "dir", "runs",
)  # fmt: skip
ODD = (
    "", " ", "0", "-1", "1.5", "\0", "a\0b", "\ud800", "\u00b2", "\u0663", "9" * 19, "9" * 20,
    "9" * 400, "9" * 5000, "1e400", "NaN", "Infinity", "%", "%00", "../..", "a/b", "'\"<&>", "=",
    "a=b", "=b", "0:1", "0:1:0", "t/0:1", "0:99999999999999999999", "2026-13-01",
    "0001-01-01T00:00", "9999-12-31T23:59:59-23:59", "2026-03-14T03:00:00+00:00_1",
    "0001-01-01T00:00:00+23:59_1",
    "2026-03-14T03:00:00+00:00_99999999999999999999", "main", "worker-1", "t", "consumed",
    "00000000-0000-0000-0000-000000000000", "x" * 3000, "\u202e", "lag", "-lag", "source",
    "probe",
    "cancel_task", "pause_sink", "chosen", "all", "csv", "text", "base64", "on",
)  # fmt: skip
texts = st.sampled_from(ODD) | st.text(max_size=30) | st.integers().map(str)
queries = st.dictionaries(st.sampled_from(NAMES), texts, max_size=4)
segments = texts.filter(bool) | st.sampled_from(("main", "t", "0", "1"))


def leaves(patterns: list[URLPattern | URLResolver], before: str = "") -> Iterator[str]:
    """The path of every page, its arguments still open."""
    for each in patterns:
        text = str(each.pattern)
        if isinstance(each, URLPattern) and "(" not in text and "^" not in text:
            yield "/" + before + text
        elif isinstance(each, URLResolver) and text == "":
            yield from leaves(each.url_patterns, before)


PAGES = sorted(path for path in leaves(get_resolver().url_patterns) if "logout" not in path)
DOCUMENT = api.get_openapi_schema()
READ = sorted(path for path, routes in DOCUMENT["paths"].items() if "get" in routes)
SENT = sorted(path for path, routes in DOCUMENT["paths"].items() if "post" in routes)
FORMS = ("/control/new", "/probe", "/dead-letters/jobs/new", "/dead-letters/1/edit", "/tokens",
         "/reruns/new", "/debug/databases/exports", "/login/", "/tokens/1/revoke")  # fmt: skip
FIELDS = sorted(
    {
        name
        for schema in DOCUMENT["components"]["schemas"].values()
        for name in schema.get("properties", {})
    }
)


@pytest.fixture
def root(client: Client, settings: Any) -> Client:
    """Somebody who may do everything, on a site with a little history."""
    story = Story(make_run(worker="worker-1"), topic="t", partition=0)
    story.consumed(0, 1)
    story.arranged(1, 1, ["0:1:0"], "m")
    story.ran(2, "0:1:0", 1.0)
    client.force_login(User.objects.create_superuser("root"))
    client.raise_request_exception = False
    site = settings.DRAKKAR.site if settings.DRAKKAR else None
    settings.DRAKKAR = SimpleNamespace(clusters={}, site=site)  # nothing waits for Kafka
    return client


def filled(path: str, data: st.DataObject) -> str:
    """The path with something in the place of each argument."""

    def some(found: re.Match[str]) -> str:
        text: str = data.draw(segments)
        return quote(text.encode("utf-8", "surrogatepass"), safe="")

    return re.sub(r"<[^>]*>|{[^}]*}", some, path)


def encoded(query: dict[str, str]) -> str:
    """The query as an address holds it."""
    return urlencode({name: text.encode("utf-8", "surrogatepass") for name, text in query.items()})


@profile(QUICK, max_examples=150)
@given(path=st.sampled_from(PAGES + READ), query=queries, data=st.data())
def test_no_address_breaks_a_page(
    root: Client, path: str, query: dict[str, str], data: st.DataObject
) -> None:
    where = f"{filled(path, data)}?{encoded(query)}"
    assert root.get(where).status_code < 500, where


@profile(QUICK, max_examples=150)
@given(path=st.sampled_from(FORMS), form=st.dictionaries(st.sampled_from(NAMES), texts, max_size=8))
def test_no_form_breaks_a_page(root: Client, path: str, form: dict[str, str]) -> None:
    answer = root.post(path, encoded(form), content_type="application/x-www-form-urlencoded")
    assert answer.status_code < 500, (path, form)


ADMIN = tuple(
    f"/admin/{model._meta.app_label}/{model._meta.model_name}/" for model in site._registry
)
FILTERS = ("q", "p", "o", "e", "all", "_facets", "_popup", "_to_field", "id", "id__exact", "kind",
           "kind__exact", "state__exact", "ts__gte", "ts__day", "run__id", "user__id__exact",
           "is_active__exact", "groups__id__exact", "x", "offset__gte", "labels__a")  # fmt: skip


@profile(QUICK, max_examples=60)
@given(
    path=st.sampled_from(ADMIN),
    below=st.sampled_from(("", "add/", "1/change/", "x/change/", "1/history/")) | texts,
    query=st.dictionaries(st.sampled_from(FILTERS), texts, max_size=3),
)
def test_no_address_breaks_the_admin(
    root: Client, path: str, below: str, query: dict[str, str]
) -> None:
    where = f"{path}{quote(below.encode('utf-8', 'surrogatepass'))}?{encoded(query)}"
    assert root.get(where).status_code < 500, where


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
documents = st.dictionaries(st.sampled_from(FIELDS), json_values, max_size=6) | json_values


@profile(QUICK, max_examples=120)
@given(path=st.sampled_from(SENT), document=documents, data=st.data())
def test_no_document_breaks_the_api(
    root: Client, path: str, document: Any, data: st.DataObject
) -> None:
    user = User.objects.get(username="root")
    headers = {"Authorization": f"Bearer {issue(user, SCOPES, None)[1]}"}
    where, body = filled(path, data), json.dumps(document)
    answer = root.post(where, body, content_type="application/json", headers=headers)
    assert answer.status_code < 500, (where, body)


@profile(QUICK, max_examples=60)
@given(path=st.sampled_from(SENT), body=st.binary(max_size=60))
def test_no_bytes_break_the_api(root: Client, path: str, body: bytes) -> None:
    user = User.objects.get(username="root")
    headers = {"Authorization": f"Bearer {issue(user, SCOPES, None)[1]}"}
    answer = root.post(path, body, content_type="application/json", headers=headers)
    assert answer.status_code < 500, (path, body)
