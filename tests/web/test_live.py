"""The live socket, and the access log, of a real daphne process."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import orjson
import pytest
import requests
from django.contrib.auth.models import User
from django.db import connection, transaction
from django.test import Client
from django.utils import timezone
from pydantic import TypeAdapter
from websockets.exceptions import ConnectionClosedError, InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Origin

from drakkar_site.accounts.models import Token
from drakkar_site.accounts.tokens import issue
from recorder.models import Run, RunState
from tests.browser.sample import fleet
from tests.support.proxy import Away, Pass, Proxy
from tests.support.site import Mould, Site, mould, running_site
from tests.web.conftest import MakeRun, make_events
from workers.control import Action
from workers.control_plane.live.earlier import LOOKED_EVENTS
from workers.control_plane.live.payloads import (
    SHOWN_EVENTS,
    Cursor,
    Events,
    Frame,
    Snapshot,
    State,
)
from workers.control_plane.live.reading import LOOK_ROWS, MOST_BEHIND, read
from workers.models import ControlRequest

pytestmark = pytest.mark.django_db(transaction=True)
WAIT_SECONDS = 20
REVOKED_SECONDS = 5
FRAMES: TypeAdapter[Frame] = TypeAdapter(Frame)


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
def reading(site: Site) -> str:
    """A token that may read."""
    return issue(User.objects.create_user("mara"), ["read"], None)[1]


class Listener:
    """A client that reads frames by the sender's own types, and acknowledges them."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket

    def frame(self) -> Frame:
        """The next frame."""
        frame = FRAMES.validate_json(self._socket.recv(timeout=WAIT_SECONDS))
        self._socket.send(orjson.dumps({"ack": frame.n}).decode())
        return frame

    def events(self, count: int) -> tuple[list[int], Cursor]:
        """The sequence numbers of the next events, and the cursor after them."""
        seqs: list[int] = []
        for _ in range(100):
            frame = self.frame()
            assert isinstance(frame, State | Events)
            if isinstance(frame, Events):
                seqs += [event.seq for event in frame.events]
            if len(seqs) >= count:
                return seqs, frame.cursor
        raise AssertionError(f"only {len(seqs)} of {count} events came")

    def until_closed(self) -> int | None:
        """Read frames until the other side ends it; its close code."""
        with pytest.raises(ConnectionClosedError):
            self._read_on()
        return self._socket.close_code

    def _read_on(self) -> None:
        for _ in range(100):
            self.frame()


def live(site: Site, token: str, **query: str) -> ClientConnection:
    """An open live socket."""
    asked = urlencode({"token": token, **query})
    return connect(f"ws://{site.address}/ws/live?{asked}", max_size=None)


def resumed(site: Site, token: str, cursor: Cursor) -> ClientConnection:
    """An open live socket that goes on from a cursor."""
    return live(site, token, cursor=orjson.dumps(cursor).decode())


def end(run: Run) -> None:
    """The run has stopped."""
    RunState.objects.filter(run=run).update(state="stopped", ended_at=timezone.now())


def test_shows_states_and_events_until_revoked(site: Site, reading: str, make_run: MakeRun) -> None:
    run = make_run(pool={"running": [{"slot": 1, "task_id": "0:1:0"}]})
    with live(site, reading) as socket:
        listener = Listener(socket)
        first = listener.frame()
        assert isinstance(first, Snapshot)
        assert (first.type, first.events) == ("snapshot", [])
        assert first.dashboard["workers"][0]["name"] == "worker-1"
        assert first.running[0]["worker"] == "worker-1"
        assert (first.running[0]["slot"], first.running[0]["labels"]) == (1, {})
        assert first.running[0]["queue_ms"] is None
        make_events(run, 3)
        assert listener.events(3) == ([1, 2, 3], {str(run.id): 3})
        Token.objects.all().delete()
        began = time.monotonic()
        assert listener.until_closed() == 4401
        assert time.monotonic() - began < REVOKED_SECONDS
    assert reading not in site.log.read_text()


def test_a_client_that_returns_misses_and_repeats_nothing(
    site: Site, reading: str, make_run: MakeRun
) -> None:
    run, other = make_run(), make_run("worker-2")
    with live(site, reading) as socket:
        listener = Listener(socket)
        listener.frame()
        make_events(run, 3)
        _, cursor = listener.events(3)
    make_events(run, 9, first=4)
    make_events(other, 2)
    end(other)
    new = make_run("worker-3")
    make_events(new, 2)
    with resumed(site, reading, cursor) as socket:
        listener = Listener(socket)
        seqs, cursor = listener.events(10)
        assert sorted(seqs) == sorted([4, 5, 6, 7, 8, 9, 1, 2, 1, 2])
        make_events(run, 10, first=10)
        assert listener.events(1)[0] == [10]


def test_a_run_that_ends_is_told_to_its_end(site: Site, reading: str, make_run: MakeRun) -> None:
    run = make_run()
    with live(site, reading) as socket:
        listener = Listener(socket)
        listener.frame()
        end(run)
        make_events(run, 2)
        assert listener.events(2)[0] == [1, 2]


def test_a_busy_run_does_not_hold_up_another(site: Site, reading: str, make_run: MakeRun) -> None:
    busy, calm = make_run("busy"), make_run("calm")
    with live(site, reading, worker="calm") as socket:
        listener = Listener(socket)
        listener.frame()
        make_events(busy, LOOK_ROWS * 3)
        make_events(calm, 1)
        assert listener.events(1) == ([1], {str(busy.id): LOOK_ROWS * 3, str(calm.id): 1})


def test_a_run_that_tells_more_than_can_be_shown_is_never_behind_and_says_so(
    site: Site, reading: str, make_run: MakeRun
) -> None:
    run = make_run()
    task: dict[str, Any] = {"attempt": 1, "duration_ms": 700.0}
    with live(site, reading) as socket:
        listener = Listener(socket)
        listener.frame()
        failed: dict[str, Any] = {"task_id": "0:1:0", "kind": "task_failed", **task}
        with transaction.atomic():  # so that one look finds all of it
            make_events(run, 1, **failed)
            make_events(run, LOOK_ROWS * 3, first=2, kind="task_completed", **task)
        frame: Frame = listener.frame()
        while not isinstance(frame, Events):
            frame = listener.frame()
        told = frame.events
        while frame.cursor != {str(run.id): LOOK_ROWS * 3}:
            frame = listener.frame()
            assert isinstance(frame, Events)
            told += frame.events
        assert len(told) == SHOWN_EVENTS
        assert frame.left_out == LOOK_ROWS * 3 - SHOWN_EVENTS
        assert [event.seq for event in told if event.kind == "task_failed"] == [1]
        make_events(run, LOOK_ROWS * 3 + 1, first=LOOK_ROWS * 3 + 1, kind="task_failed", **task)
        assert listener.events(1)[0] == [LOOK_ROWS * 3 + 1]


def test_what_was_earlier_is_read_back_in_pieces_to_the_first(
    client: Client, make_run: MakeRun
) -> None:
    run, other = make_run(), make_run("worker-2")
    began = timezone.now() - timedelta(hours=3)
    for hours in (0, 1):
        times: dict[str, Any] = {
            "ts": began + timedelta(hours=hours),
            "kind": "task_failed",
            "task_id": "0:1:0",
        }
        make_events(run, 2 + 2 * hours, first=1 + 2 * hours, **times)
    make_events(run, 5, first=5, kind="committed", ts=began)
    make_events(other, 1, kind="task_failed", ts=began + timedelta(hours=1))
    client.force_login(User.objects.create_user("mara"))
    seqs: list[list[int]] = []
    until, is_first = timezone.now().isoformat(), False
    while not is_first:
        asked = {"cluster": "main", "worker": "worker-1", "until": until}
        piece = client.get("/api/v1/live/earlier", asked).json()
        seqs.append([event["seq"] for event in piece["events"]])
        until, is_first = piece["since"], piece["is_first"]
        assert len(seqs) < 4
    assert seqs == [[3, 4], [1, 2]]
    refused = client.get("/api/v1/live/earlier", {"until": "soon"})
    assert (refused.status_code, "until: expected" in refused.json()["detail"]) == (422, True)


def test_a_piece_of_earlier_has_a_bound_and_loses_nothing(
    client: Client, make_run: MakeRun
) -> None:
    run = make_run()
    began = timezone.now() - timedelta(minutes=5)
    with transaction.atomic():
        for second in range(3):
            at = began + timedelta(seconds=second)
            count = 2 * LOOKED_EVENTS // 3
            task: dict[str, Any] = {"kind": "task_completed", "ts": at, "duration_ms": 1.0}
            make_events(run, count * (second + 1), first=count * second + 1, **task)
    client.force_login(User.objects.create_user("mara"))
    until, is_first, told = timezone.now().isoformat(), False, 0
    while not is_first:
        piece = client.get("/api/v1/live/earlier", {"until": until}).json()
        assert len(piece["events"]) <= SHOWN_EVENTS
        told += len(piece["events"]) + piece["left_out"]
        until, is_first = piece["since"], piece["is_first"]
    assert told == Run.objects.get(id=run.id).recorded_seq


def test_too_much_missed_is_a_resync(site: Site, reading: str, make_run: MakeRun) -> None:
    run = make_run()
    make_events(run, MOST_BEHIND + 1)
    with resumed(site, reading, {str(run.id): 0}) as socket:
        frame = Listener(socket).frame()
        assert isinstance(frame, Snapshot)
        assert (frame.type, frame.cursor) == ("resync", {str(run.id): MOST_BEHIND + 1})


def test_no_more_than_two_frames_are_on_the_way(
    site: Site, reading: str, make_run: MakeRun
) -> None:
    run = make_run()
    with live(site, reading) as socket:
        first = FRAMES.validate_json(socket.recv(timeout=WAIT_SECONDS))
        make_events(run, 1)
        second = FRAMES.validate_json(socket.recv(timeout=WAIT_SECONDS))
        make_events(run, 2, first=2)
        with pytest.raises(TimeoutError):
            socket.recv(timeout=2)
        socket.send(orjson.dumps({"ack": second.n}).decode())
        third = FRAMES.validate_json(socket.recv(timeout=WAIT_SECONDS))
        assert (first.n, second.n, third.n) == (1, 2, 3)


def test_a_client_that_acknowledges_nothing_is_shut_out_as_soon(
    site: Site, reading: str, make_run: MakeRun
) -> None:
    run = make_run()
    with live(site, reading) as socket:
        FRAMES.validate_json(socket.recv(timeout=WAIT_SECONDS))
        make_events(run, 1)
        FRAMES.validate_json(socket.recv(timeout=WAIT_SECONDS))
        make_events(run, 2, first=2)
        Token.objects.update(revoked_at=timezone.now())
        began = time.monotonic()
        with pytest.raises(ConnectionClosedError):
            socket.recv(timeout=WAIT_SECONDS)
        assert socket.close_code == 4401
        assert time.monotonic() - began < REVOKED_SECONDS


@pytest.mark.parametrize("answer", ["", "[]", '{"ack": "x"}', '{"ack": 1}' + " " * 300])
def test_ends_with_a_client_that_talks_nonsense(site: Site, reading: str, answer: str) -> None:
    with live(site, reading) as socket:
        socket.send(answer)
        assert Listener(socket).until_closed() == 4400


def test_no_message_to_a_socket_is_an_action(site: Site, reading: str, make_run: MakeRun) -> None:
    make_run()
    for action in Action:
        asked = {"action": action, "type": action, "cluster": "main", "worker": "worker-1"}
        with live(site, reading) as socket:
            socket.send(orjson.dumps({"ack": 0, **asked}).decode())  # only its number is looked at
            socket.send(orjson.dumps(asked).decode())
            assert Listener(socket).until_closed() == 4400
    assert not ControlRequest.objects.exists()


def test_a_great_snapshot_comes_in_parts(site: Site, reading: str) -> None:
    runs = fleet(seconds=600)
    with live(site, reading, recent="1") as socket:
        listener = Listener(socket)
        first = listener.frame()
        assert isinstance(first, Snapshot)
        assert first.cursor == {}
        count, cursor = len(first.events), first.cursor
        while not cursor:
            frame = listener.frame()
            assert isinstance(frame, Events)
            count, cursor = count + len(frame.events), frame.cursor
        assert count > 1500
        ends = {str(run.id): Run.objects.get(id=run.id).recorded_seq for run in runs}
        assert {run: cursor[run] for run in ends} == ends


def test_recent_events_without_the_fast(site: Site, reading: str, make_run: MakeRun) -> None:
    run = make_run()
    task: dict[str, Any] = {"task_id": "0:1:0", "attempt": 1}
    make_events(run, 1, kind="task_started", **task)
    make_events(run, 2, first=2, kind="task_completed", duration_ms=1.0, **task)
    make_events(run, 3, first=3, kind="task_completed", duration_ms=9000.0, task_id="0:2:0")
    make_events(run, 4, first=4)
    with live(site, reading, recent="1") as socket:
        frame = Listener(socket).frame()
        assert isinstance(frame, Snapshot)
        assert [event.seq for event in frame.events] == [3]


@pytest.mark.parametrize("seq", [-1, 10**30])
def test_a_cursor_that_is_none_of_ours_begins_anew(
    site: Site, reading: str, make_run: MakeRun, seq: int
) -> None:
    run = make_run()
    with resumed(site, reading, {str(run.id): float(seq)}) as socket:  # type: ignore[dict-item]
        frame = Listener(socket).frame()
        assert isinstance(frame, Snapshot)
        assert (frame.type, frame.cursor) == ("snapshot", {str(run.id): 0})


def test_what_cannot_be_told_ends_the_socket(site: Site, reading: str, make_run: MakeRun) -> None:
    # Their sum is more than JSON's whole numbers are sent as.
    make_run(partitions=[{"topic": "t", "partition": n, "lag": 2**63} for n in (0, 1)])
    with live(site, reading) as socket:
        assert Listener(socket).until_closed() == 4500


def test_a_run_back_from_lost_is_a_gap_and_a_new_one_is_not(make_run: MakeRun) -> None:
    run = make_run("worker-1", beat_at=timezone.now() + timedelta(minutes=2))
    new = make_run("worker-2", beat_at=timezone.now() + timedelta(seconds=30))
    for each in (run, new):
        make_events(each, 3)
    followed = {str(run.id): 3}
    first = read(followed)
    assert [(event.run, event.seq) for event in first.events] == [
        (str(new.id), seq) for seq in (1, 2, 3)
    ]
    assert not first.has_gap
    RunState.objects.filter(run=run).update(
        state="lost", beat_at=timezone.now() - timedelta(hours=1)
    )
    left = read(first.cursor)
    assert (set(left.cursor), left.has_gap) == ({str(new.id)}, False)
    make_events(run, 9, first=4)
    RunState.objects.filter(run=run).update(
        state="ready", beat_at=timezone.now() + timedelta(minutes=2)
    )
    back = read(left.cursor)
    assert (back.events, back.has_gap, back.cursor[str(run.id)]) == ([], True, 9)
    assert not read(back.cursor).has_gap


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


def test_a_state_comes_though_nothing_happens_and_names_who_was_lost(
    site: Site, reading: str, make_run: MakeRun
) -> None:
    make_run()
    lost = make_run("worker-2", state="lost")
    with live(site, reading) as socket:
        listener = Listener(socket)
        first, second = listener.frame(), listener.frame()
        assert isinstance(first, Snapshot)
        assert isinstance(second, State)
        for frame in (first, second):
            assert [(each["run"], each["worker"]) for each in frame.lost] == [
                (str(lost.id), "worker-2")
            ]


def test_ends_when_postgres_is_away(transactional_db: None, tmp_path: Path) -> None:
    at = connection.settings_dict
    secret = issue(User.objects.create_user("mara"), ["read"], None)[1]
    with (
        Proxy(at["HOST"], int(at["PORT"])) as proxy,
        running_site(tmp_path, proxy.address) as site,
        live(site, secret) as socket,
    ):
        listener = Listener(socket)
        listener.frame()
        proxy.set(Away())
        assert listener.until_closed() == 4503
        with pytest.raises(InvalidStatus):
            live(site, secret)
        proxy.set(Pass())
        with live(site, secret) as again:
            Listener(again).frame()
