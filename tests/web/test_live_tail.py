"""The socket of a live tail, of a real daphne process: who may look, and what is shown."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import orjson
import pytest
from django.contrib.auth.models import User
from django.db import connection
from pydantic import TypeAdapter
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from drakkar_site.accounts.models import AuditEntry, Token
from drakkar_site.accounts.tokens import issue
from recorder.models import Event, RunState
from tests.support.proxy import Away, Pass, Proxy
from tests.support.site import Mould, Site, mould, running_site
from tests.support.tails import TASK, TailWorker
from tests.web.conftest import MakeRun
from workers.control_plane.live.tail_socket import TailFrame
from workers.models import TailLease

pytestmark = pytest.mark.django_db(transaction=True)
WAIT_SECONDS = 20.0
FRAMES: TypeAdapter[TailFrame] = TypeAdapter(TailFrame)


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
def reading() -> str:
    """A token that may read."""
    return issue(User.objects.create_user("mara"), ["read"], None)[1]


@pytest.fixture
def worker(make_run: MakeRun) -> TailWorker:
    """A live worker that owns the task's partition."""
    return TailWorker(make_run(partitions=[{"topic": "requests", "partition": 7}]))


class Reader:
    """A client that acknowledges what it gets, and puts the text together."""

    def __init__(self, socket: ClientConnection, worker: TailWorker) -> None:
        self._socket = socket
        self._worker = worker
        self.texts = {"stdout": "", "stderr": ""}

    def frame(self) -> TailFrame:
        """The next frame."""
        frame = FRAMES.validate_json(self._socket.recv(timeout=WAIT_SECONDS))
        self._socket.send(orjson.dumps({"ack": frame.n}).decode())
        if frame.is_anew:
            self.texts = {"stdout": "", "stderr": ""}
        for written in frame.written:
            mark = f"[{written.left_out} left out]" if written.left_out else ""
            self.texts[written.stream] += mark + written.text
        return frame

    def until(self, is_there: Callable[[TailFrame], bool]) -> TailFrame:
        """The first frame of which that is so; the worker goes on meanwhile."""
        end = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < end:
            self._worker.turn()
            if is_there(frame := self.frame()):
                return frame
        raise AssertionError(f"not within {WAIT_SECONDS} s; the texts are {self.texts}")

    def until_closed(self) -> int | None:
        """Read frames until the other side ends it; its close code."""
        with pytest.raises(ConnectionClosed):
            self._read_on()
        return self._socket.close_code

    def _read_on(self) -> None:
        for _ in range(100):
            self.frame()


def tail(site: Site, token: str, task_id: str = TASK, cluster: str = "main") -> ClientConnection:
    """An open socket of a tail."""
    at = f"ws://{site.address}/ws/tail/{cluster}/{task_id}?token={token}"
    return connect(at, max_size=None)


def gone() -> None:
    """Wait until no lease is left."""
    end = time.monotonic() + WAIT_SECONDS
    while TailLease.objects.exists():
        assert time.monotonic() < end, "a lease stays after its reader left"
        time.sleep(0.05)


def test_two_readers_share_a_tail_and_the_later_one_sees_what_was_written_before(
    site: Site, reading: str, worker: TailWorker
) -> None:
    with tail(site, reading) as first_socket:
        first = Reader(first_socket, worker)
        assert first.frame().state == "connecting"
        assert first.until(lambda frame: frame.state == "running").worker == "worker-1"
        worker.prints(b"counting \x1b[31m1\x1b[0m\n")
        worker.prints(b"warned\n", stream="stderr")
        first.until(lambda _: "1" in first.texts["stdout"] and first.texts["stderr"] != "")
        with tail(site, reading) as second_socket:
            second = Reader(second_socket, worker)
            second.until(lambda _: second.texts == first.texts)
            assert TailLease.objects.count() == 1
            worker.prints(b"later\n", offset=100)
            first.until(lambda _: first.texts["stdout"].endswith("later\n"))
            second.until(lambda _: second.texts["stdout"].endswith("later\n"))
            for each in (first, second):
                # ANSI is text: escapes come as they are, for the page to show.
                assert each.texts["stdout"].startswith("counting \x1b[31m1")
                assert "[80 left out]later" in each.texts["stdout"]
        assert TailLease.objects.exists()
    gone()
    assert not Event.objects.exists()
    assert not AuditEntry.objects.exists()


def test_a_task_that_is_nowhere_and_a_worker_that_fell_silent_are_told(
    site: Site, reading: str, worker: TailWorker
) -> None:
    with tail(site, reading, "9:1:0") as socket:
        assert Reader(socket, worker).frame().state == "lost"
    with tail(site, reading) as socket:
        reader = Reader(socket, worker)
        reader.until(lambda frame: frame.state == "running")
        RunState.objects.update(state="lost")
        assert reader.until(lambda frame: frame.state == "lost").worker is None


@pytest.mark.parametrize("scopes", [["operate"], []])
def test_without_the_right_to_read_it_is_a_403_and_nothing_begins(
    site: Site, worker: TailWorker, scopes: list[str]
) -> None:
    secret = issue(User.objects.create_user("otto"), scopes, None)[1]
    for token in (secret, "", "wrong"):
        with pytest.raises(InvalidStatus) as refused, tail(site, token):
            pass
        assert refused.value.response.status_code == 403
    assert not TailLease.objects.exists()


def test_a_right_that_is_taken_away_closes_the_socket_and_ends_the_lease(
    site: Site, reading: str, worker: TailWorker
) -> None:
    with tail(site, reading) as socket:
        reader = Reader(socket, worker)
        reader.until(lambda frame: frame.state == "running")
        Token.objects.all().delete()
        assert reader.until_closed() == 4401
    gone()


@pytest.mark.parametrize(
    "name", ["main/7:100", "main/" + "7:100:0" + ".r1" * 100, "main/x;drop", "main/"]
)
def test_what_is_no_task_is_refused_before_anything_begins(
    site: Site, reading: str, name: str
) -> None:
    cluster, _, task_id = name.partition("/")
    with pytest.raises(InvalidStatus), tail(site, reading, task_id, cluster):
        pass
    assert not TailLease.objects.exists()


def test_a_great_output_comes_in_frames_that_fit(
    site: Site, reading: str, worker: TailWorker
) -> None:
    with tail(site, reading) as first_socket:
        first = Reader(first_socket, worker)
        first.until(lambda frame: frame.state == "running")
        for number in range(6):
            worker.prints(b"\x01" * 60_000, 60_000 * number)
            worker.turn()
        first.until(lambda _: first.texts["stdout"].count("\x01") >= 200_000)
        with connect(
            f"ws://{site.address}/ws/tail/main/{TASK}?token={reading}", max_size=1024 * 1024
        ) as socket:
            second = Reader(socket, worker)
            second.until(lambda _: second.texts["stdout"].count("\x01") >= 180_000)
            assert "left out]" in second.texts["stdout"]


def test_ends_when_postgres_is_away_and_begins_again_with_it(
    transactional_db: None, tmp_path: Path, reading: str, worker: TailWorker
) -> None:
    at = connection.settings_dict
    with (
        Proxy(at["HOST"], int(at["PORT"])) as proxy,
        running_site(tmp_path, proxy.address) as site,
        tail(site, reading) as socket,
    ):
        reader = Reader(socket, worker)
        reader.until(lambda frame: frame.state == "running")
        proxy.set(Away())
        assert reader.until_closed() == 4503
        proxy.set(Pass())
        with tail(site, reading) as again:
            back = Reader(again, worker)
            back.until(lambda frame: frame.state == "running")
            worker.prints(b"goes on")
            back.until(lambda _: back.texts["stdout"] == "goes on")
