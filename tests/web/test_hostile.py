"""Requests that no browser sends, to a real daphne process."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
from django.contrib.auth.models import User

from drakkar_site.accounts.throttle import LIMIT
from drakkar_site.accounts.tokens import issue
from drakkar_site.bodies import MAX_BODY_BYTES
from tests.support.site import Site, running_site

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def site(transactional_db: None, tmp_path: Path) -> Iterator[Site]:
    """Daphne on the test database."""
    with running_site(tmp_path) as running:
        yield running


def test_a_root_path_of_the_client_s_opens_nothing(site: Site) -> None:
    _, secret = issue(User.objects.create_user("mara"), ["read"], None)

    def status(path: str, root: str, **headers: str) -> int:
        headers["Daphne-Root-Path"] = root
        url = f"http://{site.address}{path}"
        answer = requests.get(url, headers=headers, allow_redirects=False, timeout=30)
        assert "<title>Dashboard" not in answer.text
        return answer.status_code

    assert status("/login/", "/login") == 200
    assert status("/x/audit", "/x", Authorization=f"Bearer {secret}") == 404
    assert status("/audit", "/x", Authorization=f"Bearer {secret}") == 403


def test_logins_at_the_same_time_are_throttled_too(site: Site) -> None:
    url = f"http://{site.address}/login/"
    cookie = requests.get(url, timeout=30).cookies["csrftoken"]
    form = {"username": "mara", "password": "wrong", "csrfmiddlewaretoken": cookie}

    def status(_: int) -> int:
        answer = requests.post(url, form, cookies={"csrftoken": cookie}, timeout=60)
        return answer.status_code

    with ThreadPoolExecutor(3 * LIMIT) as pool:
        seen = Counter(pool.map(status, range(3 * LIMIT)))
    assert seen == {200: LIMIT, 429: 2 * LIMIT}


def answer_to(site: Site, head: str, body: bytes) -> bytes:
    """What daphne says to a request that is sent as it stands."""
    host, _, port = site.address.partition(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(f"POST /nowhere HTTP/1.1\r\nHost: localhost\r\n{head}\r\n".encode())
        connection.sendall(body)
        return connection.recv(4096)


def test_no_body_is_kept_past_a_bound(site: Site) -> None:
    over = MAX_BODY_BYTES + 1
    chunk = f"{over:x}\r\n".encode() + b"x" * over
    fits = b"x" * 1000
    assert answer_to(site, f"Content-Length: {over}\r\n", b"").startswith(b"HTTP/1.1 413 ")
    assert answer_to(site, "Transfer-Encoding: chunked\r\n", chunk).startswith(b"HTTP/1.1 413 ")
    whole = answer_to(site, "Transfer-Encoding: chunked\r\n", chunk + b"\r\n0\r\n\r\n")
    assert whole.count(b"HTTP/1.1") == 1
    assert answer_to(site, "Content-Length: 1000\r\n", fits).startswith(b"HTTP/1.1 302 ")
    assert "Traceback" not in site.log.with_suffix(".err").read_text()


@pytest.mark.parametrize("target", ["*", "elsewhere:80", "http://elsewhere/healthz", "healthz"])
def test_a_target_that_is_no_path_is_refused(site: Site, target: str) -> None:
    host, _, port = site.address.partition(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(f"OPTIONS {target} HTTP/1.1\r\nHost: {site.address}\r\n\r\n".encode())
        assert connection.recv(4096).startswith(b"HTTP/1.1 400 ")
    assert "Error" not in site.log.with_suffix(".err").read_text()
