"""Faults H2 to H4: what strangers, locks and crowds did to the web process and to Postgres."""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path

import orjson
import psycopg
import pytest
import requests
from django.contrib.auth.models import User
from django.db import connection
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from drakkar_site.accounts.tokens import issue
from tests.support.factories import RunFactory
from tests.support.proxy import Away, Pass, Proxy
from tests.support.site import Mould, Site, mould, running_site

pytestmark = pytest.mark.django_db(transaction=True)
CROWD = 300
MOST_CONNECTIONS = 30
LOCKED = 60
PATIENCE_SECONDS = 60
STATE_SECONDS = 2.0
"""A socket hears a state at least so often."""
UPGRADE = (
    "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
NOBODY = "Cookie: sessionid=abcdefghijklmnopqrstuvwxyz123456\r\n"


@pytest.fixture(scope="module")
def site_mould(django_db_setup: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mould]:
    """Has imported the site."""
    with mould(tmp_path_factory.mktemp("mould")) as made:
        yield made


@pytest.fixture
def site(transactional_db: None, site_mould: Mould, tmp_path: Path) -> Iterator[Site]:
    """Daphne on the test database."""
    with site_mould.site(tmp_path) as running:
        yield running


@pytest.fixture
def secret(transactional_db: None) -> str:
    """A token that may read."""
    return issue(User.objects.create_user("mara"), ["read", "export"], None)[1]


@contextmanager
def another_connection() -> Iterator[psycopg.Connection]:
    """A connection of our own to the server, beside those of the site and of the test."""
    at = connection.settings_dict
    given = {"host": at["HOST"], "port": at["PORT"], "user": at["USER"], "dbname": at["NAME"]}
    with psycopg.connect(**given, autocommit=True) as made:
        yield made


@contextmanager
def counted_connections() -> Iterator[list[int]]:
    """The connections to the site's database, sampled until the block ends."""
    seen, ended = [0], threading.Event()

    def sample() -> None:
        query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        with another_connection() as mine:
            while not ended.wait(0.01):
                row = mine.execute(query).fetchone()
                assert row is not None
                seen.append(int(row[0]))

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()


def crowd(site: Site, path: str, headers: str) -> Counter[str]:
    """The statuses that as many connections at once are answered with."""
    host, _, port = site.address.partition(":")
    head = f"GET {path} HTTP/1.1\r\nHost: {site.address}\r\n{headers}\r\n".encode()
    answers: Counter[str] = Counter()
    with ExitStack() as stack:
        opened = []
        for _ in range(CROWD):
            made = socket.create_connection((host, int(port)), timeout=PATIENCE_SECONDS)
            opened.append(stack.enter_context(made))
            made.sendall(head)
        for each in opened:
            answers[each.recv(12)[9:12].decode()] += 1
    return answers


def seconds_of(url: str, **headers: str) -> tuple[int, float, requests.Response]:
    began = time.monotonic()
    answer = requests.get(url, headers=headers, timeout=PATIENCE_SECONDS, allow_redirects=False)
    return answer.status_code, time.monotonic() - began, answer


@pytest.mark.parametrize(
    ("path", "headers", "fine"),
    [
        ("/api/v1/dashboard", "Authorization: Bearer of-nobody\r\n", {"401", "429", "503"}),
        ("/", NOBODY, {"302", "503"}),
        ("/ws/live", UPGRADE + NOBODY, {"403"}),
        ("/ws/live?token=of-nobody", UPGRADE, {"403"}),
    ],
)
def test_a_crowd_without_a_login_takes_few_connections(
    site: Site, path: str, headers: str, fine: set[str]
) -> None:
    if "websocket" in headers:
        headers += f"Origin: http://{site.address}\r\n"
    with counted_connections() as seen:
        answers = crowd(site, path, headers)
        assert seconds_of(f"http://{site.address}/healthz")[0] == 200
    assert set(answers) <= fine
    assert answers.total() == CROWD
    assert max(seen) <= MOST_CONNECTIONS


def test_a_lock_of_a_migration_holds_nobody(site: Site, secret: str) -> None:
    RunFactory.create(worker="worker-1")
    url, bearer = f"http://{site.address}", f"Bearer {secret}"
    paths = ["/workers", "/api/v1/workers", "/history"] * (LOCKED // 3)
    with (
        another_connection() as migrating,
        migrating.transaction(),
        ThreadPoolExecutor(LOCKED + 1) as pool,
    ):
        migrating.execute("LOCK TABLE recorder_run, recorder_runstate IN ACCESS EXCLUSIVE MODE")
        asked = [pool.submit(seconds_of, url + path, Authorization=bearer) for path in paths]
        alive = [seconds_of(f"{url}/healthz")[1] for _ in range(20)]
        found = [each.result() for each in asked]
        assert migrating.info.transaction_status.name == "INTRANS"
    held = [answer for status, _, answer in found if status == 503]
    assert held
    assert all(int(answer.headers["Retry-After"]) > 0 for answer in held)
    assert {status for status, *_ in found} <= {200, 503}
    assert max(seconds for _, seconds, _ in found) < 20
    assert max(alive) < 5
    assert seconds_of(f"{url}/workers", Authorization=bearer)[0] == 200


def test_readers_who_leave_leave_no_connection_behind(site: Site, secret: str) -> None:
    host, _, port = site.address.partition(":")
    head = f"Host: {site.address}\r\nAuthorization: Bearer {secret}\r\n\r\n"
    for _ in range(150):
        with socket.create_connection((host, int(port)), timeout=PATIENCE_SECONDS) as left:
            left.sendall(f"GET /workers HTTP/1.1\r\n{head}".encode())
    with ThreadPoolExecutor(16) as pool:
        bearer = f"Bearer {secret}"
        url = f"http://{site.address}/workers"
        found = list(pool.map(lambda _: seconds_of(url, Authorization=bearer)[0], range(40)))
    assert set(found) == {200}


def test_health_needs_no_database(transactional_db: None, tmp_path: Path) -> None:
    at = connection.settings_dict
    with (
        Proxy(at["HOST"], int(at["PORT"])) as proxy,
        running_site(tmp_path, proxy.address) as site,
    ):
        proxy.set(Away())
        for _ in range(5):
            status, took, answer = seconds_of(
                f"http://{site.address}/", Cookie="sessionid=abcdefgh"
            )
            assert (status, "Retry-After" in answer.headers) == (503, True)
            assert took < 2  # who waits is told so at once
        assert seconds_of(f"http://{site.address}/healthz")[:1] == (200,)
        assert seconds_of(f"http://{site.address}/static/drakkar/drakkar.css")[:1] == (200,)
        proxy.set(Pass())
        assert seconds_of(f"http://{site.address}/", Cookie="sessionid=abcdefgh")[0] == 302


@pytest.mark.parametrize("path", ["/", "/ws", "/ws/other", "/workers", "/ws/live/x", "//ws/live"])
@pytest.mark.parametrize("has_token", [False, True])
def test_a_socket_of_no_route_is_refused(
    site: Site, secret: str, path: str, has_token: bool
) -> None:
    query = f"?token={secret}" if has_token else ""
    origin = f"http://{site.address}"
    with pytest.raises(InvalidStatus) as refused:
        connect(f"ws://{site.address}{path}{query}", additional_headers={"Origin": origin})
    assert refused.value.response.status_code == 403
    assert "Traceback" not in site.log.with_suffix(".err").read_text()


@pytest.mark.slow
def test_a_hundred_and_fifty_sockets_hear_the_state_in_time(site: Site, secret: str) -> None:
    for number in range(10):
        RunFactory.create(worker=f"worker-{number}", beat__state="ready")
    gaps: list[float] = []
    ready, count = threading.Barrier(152, timeout=PATIENCE_SECONDS), 151

    def listen() -> None:
        with connect(f"ws://{site.address}/ws/live?token={secret}", max_size=None) as live:
            frame = orjson.loads(live.recv(timeout=PATIENCE_SECONDS))
            live.send(orjson.dumps({"ack": frame["n"]}).decode())
            ready.wait()
            heard: list[float] = []
            while len(heard) < 5:
                frame = orjson.loads(live.recv(timeout=PATIENCE_SECONDS))
                live.send(orjson.dumps({"ack": frame["n"]}).decode())
                heard += [time.monotonic()] if frame["type"] == "state" else []
            gaps.extend(after - before for before, after in pairwise(heard))

    with counted_connections() as seen, ThreadPoolExecutor(count) as pool:
        listening = [pool.submit(listen) for _ in range(count)]
        ready.wait()
        for each in listening:
            each.result(timeout=PATIENCE_SECONDS)
    gaps.sort()
    assert len(gaps) == 4 * count
    assert gaps[int(0.95 * len(gaps))] < STATE_SECONDS + 1.0
    assert max(seen) <= MOST_CONNECTIONS


def test_a_good_token_is_never_asked_to_wait_for_bad_ones(site: Site, secret: str) -> None:
    url = f"http://{site.address}/api/v1/dashboard"
    bad = [seconds_of(url, Authorization="Bearer of-nobody") for _ in range(8)]
    assert [status for status, *_ in bad] == [401] * 5 + [429] * 3
    assert "Retry-After" in bad[-1][2].headers
    assert seconds_of(url, Authorization=f"Bearer {secret}")[0] == 200
    assert seconds_of(f"{url}?token={secret}")[0] == 200
    with connect(f"ws://{site.address}/ws/live?token={secret}", max_size=None) as live:
        assert orjson.loads(live.recv(timeout=PATIENCE_SECONDS))["type"] == "snapshot"
