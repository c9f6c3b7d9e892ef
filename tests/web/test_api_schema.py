"""The API against its own OpenAPI document: no request of any kind is answered by a 500, and every
answer is one that the document names."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
import schemathesis
from django.contrib.auth.models import User
from django.core.handlers.wsgi import WSGIHandler
from django.test import Client
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    response_schema_conformance,
    status_code_conformance,
)

from drakkar_site.accounts.models import SCOPES
from drakkar_site.accounts.tokens import issue
from drakkar_site.api import api
from tests.browser.sample import fleet

pytestmark = pytest.mark.django_db(transaction=True)
CHECKS = [not_a_server_error, status_code_conformance, response_schema_conformance]
EXAMPLES = 15
FIELDS = ("cluster", "worker", "action", "key", "topic", "sink", "name")

schema = schemathesis.openapi.from_dict(api.get_openapi_schema())
schema.app = WSGIHandler()


@pytest.fixture
def headers(db: None) -> dict[str, str]:
    """Of a token that may do everything, on a site with a fleet."""
    fleet(seconds=5)
    user = User.objects.create_superuser("root")
    return {"Authorization": f"Bearer {issue(user, SCOPES, None)[1]}"}


@schema.parametrize()
@settings(
    max_examples=EXAMPLES,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_the_api_keeps_its_document(case: Any, headers: dict[str, str]) -> None:
    case.call_and_validate(headers=headers, checks=CHECKS)


HOSTILE = (
    "\0",
    "a\0b",
    "\ud800",
    "9" * 400,
    "-1",
    "%",
    "x" * 5000,
    "2026-13-01",
    "0001-01-01T00:00",
)


def operations() -> Iterator[tuple[str, str]]:
    """Path and name of every parameter of a query."""
    for path, routes in schema.raw_schema["paths"].items():
        for each in routes.get("get", {}).get("parameters", []):
            if each["in"] == "query":
                yield path, each["name"]


def test_no_hostile_text_in_an_address_breaks_the_api(
    client: Client, headers: dict[str, str]
) -> None:
    bad = []
    for path, name in operations():
        where = re.sub(r"{[^}]*}", "1", path)
        for text in HOSTILE:
            query = {name: text.encode("utf-8", "surrogatepass")}
            if client.get(where, query, headers=headers).status_code >= 500:
                bad.append((where, name, text))
    assert bad == []


def test_no_hostile_text_in_a_document_breaks_the_api(
    client: Client, headers: dict[str, str]
) -> None:
    bad = []
    for field, text in product(FIELDS, HOSTILE):
        document: dict[str, Any] = {"cluster": "main", "worker": "worker-1", "format": "csv"}
        document |= {"action": "pause_sink", "arguments": {"sink": text, "topic": text}}
        document[field] = text
        body = json.dumps(document)
        for where in ("/api/v1/control", "/api/v1/exports", "/api/v1/dead-letters/jobs"):
            answer = client.post(where, body, content_type="application/json", headers=headers)
            if answer.status_code >= 500:
                bad.append((where, field, text))
    assert bad == []
