"""Fault K3: an export that was read slowly lay in the memory of the web process as a whole."""

from __future__ import annotations

import hashlib
import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from uuid import UUID, uuid4

import pytest
import requests
from django.contrib.auth.models import User
from django.db import connection
from django.utils import timezone
from requests.exceptions import ChunkedEncodingError

from drakkar_site.accounts.tokens import issue
from recorder.models import Event, ExportJob
from recorder.queries import SEARCHED_ROWS
from tests.support.factories import RunFactory
from tests.support.proxy import Away, Pass, Proxy
from tests.support.site import Mould, Site, mould, running_site
from tests.web.conftest import make_events

pytestmark = pytest.mark.django_db(transaction=True)
FILE_BYTES = 256 * 1024 * 1024
MIB = 1024 * 1024
MOST_GROWN_BYTES = 48 * MIB
PATIENCE_SECONDS = 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where exports are."""
    return tmp_path_factory.mktemp("exports")


@pytest.fixture(scope="module")
def site_mould(
    django_db_setup: None, tmp_path_factory: pytest.TempPathFactory, folder: Path
) -> Iterator[Mould]:
    """Has imported the site."""
    made = tmp_path_factory.mktemp("mould")
    with mould(made, DRAKKAR_SITE__EXPORT_DIR=str(folder)) as ready:
        yield ready


@pytest.fixture
def site(transactional_db: None, site_mould: Mould, tmp_path: Path) -> Iterator[Site]:
    """Daphne on the test database."""
    with site_mould.site(tmp_path) as running:
        yield running


@pytest.fixture
def secret(transactional_db: None) -> str:
    """A token that may export."""
    return issue(User.objects.create_user("mara"), ["read", "export"], None)[1]


def an_export(folder: Path, size: int) -> UUID:
    """A finished export with a file of that size."""
    job, now = uuid4(), timezone.now()
    ExportJob.objects.create(
        id=job, name="x", format="csv", selection={}, state="done", actor="mara",
        created_at=now, progress_at=now, size_bytes=size,
    )  # fmt: skip
    block = os.urandom(MIB)
    with (folder / f"{job}.csv").open("wb") as file:
        for _ in range(size // MIB):
            file.write(block)
    return job


def process_of(site: Site) -> Path:
    """The process that listens on the site's port."""
    port = int(site.address.rpartition(":")[2])
    rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    sockets = {
        f"socket:[{row[9]}]"
        for row in rows
        if row[3] == "0A" and int(row[1].rpartition(":")[2], 16) == port
    }
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if any(str(each.readlink()) in sockets for each in (process / "fd").iterdir()):
                return process
    raise AssertionError(f"nobody listens on {port}")


def rss_of(process: Path) -> int:
    """Bytes that a process holds in memory."""
    found = re.search(r"VmRSS:\s+(\d+)", (process / "status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def ask(site: Site, path: str, secret: str) -> socket.socket:
    host, _, port = site.address.partition(":")
    made = socket.create_connection((host, int(port)), timeout=PATIENCE_SECONDS)
    head = f"GET {path} HTTP/1.1\r\nHost: {site.address}\r\nAuthorization: Bearer {secret}\r\n"
    made.sendall(f"{head}Connection: close\r\n\r\n".encode())
    return made


def test_slow_readers_hold_no_file_in_memory(site: Site, secret: str, folder: Path) -> None:
    job = an_export(folder, FILE_BYTES)
    path = f"/debug/databases/exports/{job}/file"
    with ask(site, f"/debug/databases/exports/{uuid4()}/file", secret) as warm:
        assert warm.recv(12).endswith(b"404")
    process, most = process_of(site), 0
    before = rss_of(process)
    with ask(site, path, secret) as slow, ask(site, path, secret) as still:
        assert b" 200 " in slow.recv(64)
        assert b" 200 " in still.recv(64)
        for _ in range(20):
            slow.recv(256 * 1024)
            time.sleep(0.1)  # a reader of about 2 MB/s: what it leaves has to stay on the disk
            most = max(most, rss_of(process) - before)
        url = f"http://{site.address}/healthz"
        assert requests.get(url, timeout=PATIENCE_SECONDS).status_code == 200
    print(f"daphne grew by {most / MIB:.0f} MiB")
    assert most < MOST_GROWN_BYTES


def test_a_file_comes_whole(site: Site, secret: str, folder: Path) -> None:
    job = an_export(folder, 20 * MIB)
    url = f"http://{site.address}/api/v1/exports/{job}/file"
    headers = {"Authorization": f"Bearer {secret}"}
    with requests.Session() as session:  # twice on one connection: the first one was ended well
        for _ in range(2):
            answer = session.get(url, headers=headers, timeout=PATIENCE_SECONDS)
            digest = hashlib.sha256(answer.content).digest()
            assert digest == hashlib.sha256((folder / f"{job}.csv").read_bytes()).digest()
    assert "Traceback" not in site.log.with_suffix(".err").read_text()


def test_readers_who_leave_in_the_midst_leave_nothing_open(
    site: Site, secret: str, folder: Path
) -> None:
    job = an_export(folder, 20 * MIB)
    for _ in range(30):
        with ask(site, f"/api/v1/exports/{job}/file", secret) as left:
            left.recv(1000)
    url = f"http://{site.address}/api/v1/exports/{job}/file"
    headers = {"Authorization": f"Bearer {secret}"}
    assert len(requests.get(url, headers=headers, timeout=PATIENCE_SECONDS).content) == 20 * MIB


def test_a_proxy_may_send_the_file(
    transactional_db: None, tmp_path: Path, folder: Path, secret: str
) -> None:
    job = an_export(folder, MIB)
    given = {"DRAKKAR_SITE__EXPORT_DIR": str(folder), "DRAKKAR_SITE__EXPORT_ACCEL": "/inside/"}
    with mould(tmp_path, **given) as ready, ready.site(tmp_path) as site:
        for path in (f"/api/v1/exports/{job}/file", f"/debug/databases/exports/{job}/file"):
            url = f"http://{site.address}{path}"
            headers = {"Authorization": f"Bearer {secret}"}
            answer = requests.get(url, headers=headers, timeout=PATIENCE_SECONDS)
            assert (answer.status_code, answer.content) == (200, b"")
            assert answer.headers["X-Accel-Redirect"] == f"/inside/{job}.csv"
            assert answer.headers["Content-Disposition"] == 'attachment; filename="x.csv"'
            assert (
                requests.get(url, timeout=PATIENCE_SECONDS).headers.get("X-Accel-Redirect") is None
            )


HISTORY_ROWS = SEARCHED_ROWS + 2_000


@pytest.fixture
def history(transactional_db: None) -> None:
    """More events than an export holds or a search looks at, with a text in the oldest and the
    newest hundred."""
    run = RunFactory.create(worker="worker-1")
    make_events(run, HISTORY_ROWS)
    Event.objects.filter(seq__lte=100).update(labels={"is": "needle"})
    Event.objects.filter(seq__gt=HISTORY_ROWS - 100).update(labels={"is": "needle"})


def test_an_export_of_the_history_looks_no_further_than_a_page(
    site: Site, secret: str, history: None
) -> None:
    url = f"http://{site.address}/history/export"
    headers = {"Authorization": f"Bearer {secret}"}

    def ask_for(**query: str) -> requests.Response:
        return requests.get(url, query, headers=headers, timeout=PATIENCE_SECONDS)

    whole = ask_for(format="csv")
    assert (len(whole.text.splitlines()), whole.headers["X-Is-Cut"]) == (10_001, "true")
    seqs = [event["seq"] for event in ask_for(format="json").json()["events"]]
    assert seqs == list(range(HISTORY_ROWS, HISTORY_ROWS - 10_000, -1))
    found = ask_for(format="json", text="needle")
    assert (len(found.json()["events"]), found.headers["X-Is-Cut"]) == (100, "true")
    older = ask_for(format="json", until=found.headers["X-Is-Cut-At"], text="needle")
    assert (len(older.json()["events"]), older.headers["X-Is-Cut"]) == (100, "false")
    labelled = ask_for(format="json", label="is=needle")  # Postgres looks for it
    assert (len(labelled.json()["events"]), labelled.headers["X-Is-Cut"]) == (200, "false")
    assert ask_for(format="json", text="nothing-has-this").json() == {"events": []}


def last_query() -> datetime:
    """When anybody but us last began to ask the database something."""
    query = (
        "SELECT max(query_start) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    with connection.cursor() as cursor:
        cursor.execute(query)
        at: datetime = cursor.fetchone()[0]
    return at


def when_quiet() -> datetime:
    """The last query, after which none was begun for a second."""
    seen, since = last_query(), time.monotonic()
    while time.monotonic() - since < 1.0:
        time.sleep(0.05)
        if (now := last_query()) != seen:
            seen, since = now, time.monotonic()
    return seen


def test_the_history_is_read_as_its_reader_takes_it_in(
    site: Site, secret: str, history: None
) -> None:
    Event.objects.all().update(data={"detail": "x" * 4000})
    path = "/history/export?format=json"
    with ask(site, path, secret) as slow:
        assert b" 200 " in slow.recv(64)
        rested = when_quiet()
        while slow.recv(MIB):
            pass
        assert last_query() > rested
    with ask(site, path, secret) as left:
        assert b" 200 " in left.recv(64)
        rested = when_quiet()
    assert when_quiet() == rested


def test_an_export_that_breaks_off_does_not_look_whole(
    tmp_path: Path, secret: str, history: None
) -> None:
    Event.objects.all().update(data={"detail": "x" * 4000})
    at = connection.settings_dict
    headers = {"Authorization": f"Bearer {secret}"}
    with (
        Proxy(at["HOST"], int(at["PORT"])) as proxy,
        running_site(tmp_path, proxy.address) as site,
    ):
        url = f"http://{site.address}/history/export?format=csv"
        answer = requests.get(url, headers=headers, stream=True, timeout=PATIENCE_SECONDS)
        assert answer.status_code == 200
        parts = answer.iter_content(1000)
        assert next(parts)
        when_quiet()
        proxy.set(Away())
        with pytest.raises((requests.ConnectionError, ChunkedEncodingError), match="broken"):
            for _ in parts:
                pass
        proxy.set(Pass())
        whole = requests.get(url, headers=headers, timeout=PATIENCE_SECONDS)
        assert len(whole.text.splitlines()) == 10_001
