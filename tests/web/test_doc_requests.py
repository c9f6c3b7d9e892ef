"""The requests that docs/ show with curl, sent as they stand there."""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import urlsplit

import pytest
from django.test import Client
from pytest_django import Settings

from tests.support.doc_commands import Command, commands
from tests.web.conftest import MakeRun

pytestmark = pytest.mark.django_db
TOKEN = "my-secret-token"
REQUESTS = [command for command in commands() if command.program == "curl"]


@pytest.mark.parametrize("command", REQUESTS, ids=str)
def test_each_request_is_answered(
    command: Command, client: Client, settings: Settings, make_run: MakeRun
) -> None:
    state = settings.DRAKKAR_STATE
    site = state.site.model_copy(update={"auth_token": TOKEN})
    settings.DRAKKAR_STATE = replace(state, site=site)
    make_run("worker-1", cluster="main")
    *options, address = command.arguments
    given = [text.replace("$TOKEN", TOKEN) for text in options]
    pairs = list(zip(given[::2], given[1::2], strict=True))
    headers = dict(text.split(": ", 1) for option, text in pairs if option == "-H")
    bodies = [text for option, text in pairs if option == "-d"]
    path = urlsplit(address)._replace(scheme="", netloc="").geturl()
    kind = headers.pop("Content-Type", "application/x-www-form-urlencoded")
    ask = client.generic("POST" if bodies else "GET", path, "".join(bodies), kind, headers=headers)
    assert ask.status_code in (200, 201, 202), ask.content
    assert client.generic("GET", path.partition("?")[0]).status_code == 401, "not without a token"
