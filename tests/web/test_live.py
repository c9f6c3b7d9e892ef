"""The live socket, and the access log, of a real daphne process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import orjson
import pytest
import requests
from django.contrib.auth.models import User
from django.db import connection
from websockets.exceptions import ConnectionClosedError, InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Origin

from drakkar_site.accounts.models import Token
from drakkar_site.accounts.tokens import issue
from integration.services.ports import free_port
from tests.web.conftest import MakeRun, make_events

pytestmark = pytest.mark.django_db(transaction=True)
CHECKOUT = Path(__file__).parents[2]
WAIT_SECONDS = 20


@dataclass(frozen=True)
class Site:
    """A running daphne."""

    address: str
    log: Path


@pytest.fixture
def site(transactional_db: None, tmp_path: Path) -> Iterator[Site]:
    """Daphne on the test database."""
    at, port, log = connection.settings_dict, free_port(), tmp_path / "daphne.log"
    url = f"postgresql://{at['USER']}@{at['HOST']}:{at['PORT']}/{at['NAME']}"
    argv = [sys.executable, "-u", "-m", "daphne", "-b", "127.0.0.1", "-p", str(port)]
    with log.open("w") as out:
        process = subprocess.Popen(
            [*argv, "drakkar_site.asgi:application"],
            cwd=CHECKOUT,
            env={**os.environ, "DRAKKAR_SITE__DATABASE_URL": url},
            stdout=out,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stderr is not None
            assert any("Listening on TCP" in line for line in process.stderr)
            yield Site(f"127.0.0.1:{port}", log)
        finally:
            process.kill()
            process.communicate()


@pytest.fixture
def reading(site: Site) -> str:
    """A token that may read."""
    return issue(User.objects.create_user("mara"), ["read"], None)[1]


def read_on(socket: ClientConnection) -> None:
    """Read frames until the other side ends it."""
    for _ in range(100):
        socket.recv(timeout=WAIT_SECONDS)


def test_shows_states_and_events_until_revoked(site: Site, reading: str, make_run: MakeRun) -> None:
    run = make_run()
    with connect(f"ws://{site.address}/ws/live?token={reading}") as socket:
        first = orjson.loads(socket.recv(timeout=WAIT_SECONDS))
        assert first["type"] == "snapshot"
        assert first["dashboard"]["workers"][0]["name"] == "worker-1"
        make_events(run, 3)
        while (frame := orjson.loads(socket.recv(timeout=WAIT_SECONDS)))["type"] != "events":
            assert frame["type"] == "state"
        assert [event["seq"] for event in frame["events"]] == [1, 2, 3]
        assert frame["cursor"] == {str(run.id): 3}
        Token.objects.all().delete()
        with pytest.raises(ConnectionClosedError):
            read_on(socket)
        assert socket.close_code == 4401
    assert reading not in site.log.read_text()


@pytest.mark.parametrize("query", ["", "?token=wrong"])
def test_refuses_strangers(site: Site, query: str) -> None:
    with pytest.raises(InvalidStatus), connect(f"ws://{site.address}/ws/live{query}"):
        pass


def test_refuses_another_origin(site: Site, reading: str) -> None:
    at = f"ws://{site.address}/ws/live?token={reading}"
    with pytest.raises(InvalidStatus), connect(at, origin=Origin("http://elsewhere.example")):
        pass


def test_no_token_in_the_access_log(site: Site, reading: str) -> None:
    answer = requests.get(f"http://{site.address}/api/v1/dashboard?token={reading}", timeout=10)
    assert answer.status_code == 200
    log = site.log.read_text()
    assert "token=***" in log
    assert reading not in log
