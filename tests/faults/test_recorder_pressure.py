"""The recorder under pressure: with room on disk nothing is shed; what is shed is told truly."""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.db import OperationalError, connection
from django.utils import timezone

import recorder.recorder as recorder_module
from domain.events import Event, MessageCompleted, TaskFailed
from integration.bench import live_feed
from recorder import models, writer
from recorder.config import RecorderConfig
from recorder.partitions import Span, create_ahead, default_rows, existing_spans
from recorder.recorder import Recorder, RecorderFigures
from recorder.rows import Row
from recorder.runs import RunDescription, uuid7
from recorder.spool import DeadSpool, Spool

WAIT_SECONDS = 20.0


def description() -> RunDescription:
    return RunDescription(
        id=uuid7(time.time()), cluster="main", worker="w", host="h", pid=1, version="0",
        isolation="groups", slots=1, config_hash="", config={}, environment={},
        started_at=time.time(),
    )  # fmt: skip


def success(offset: int) -> Event:
    return MessageCompleted(
        at=time.time(), topic="t", partition=0, offset=offset, fate="delivered",
        duration_ms=1.0, reason="",
    )  # fmt: skip


def failure(offset: int, output: bytes = b"") -> Event:
    return TaskFailed(
        at=time.time(), topic="t", partition=0, offset=offset, task_id="0:1:0", slot=0, attempt=1,
        exit_code=1, pid=1, duration_ms=1.0, queue_ms=0.0, labels={}, args=(), stdout=output,
        stderr=b"", stdout_size=0, stderr_size=0, started_at=1.0, user_cpu_seconds=0.0,
        system_cpu_seconds=0.0, max_rss_bytes=0, failure="exit_code", detail="",
    )  # fmt: skip


class Server:
    """Stands for Postgres: takes so many rows a second, or hangs, or is away."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows_per_second = 1e9
        self.is_away = False
        self.stored: list[Row] = []
        self.answers = threading.Event()
        self.answers.set()
        self.is_asked = threading.Event()
        for name, double in {
            "flush_narrowing": self.flush,
            "ensure_run": lambda run: None,
            "limit_statements": lambda milliseconds: None,
        }.items():
            monkeypatch.setattr(recorder_module, name, double)
        held = type("Held", (), {"connection": object(), "close": lambda self: None})()
        monkeypatch.setattr(recorder_module, "own_connections", lambda: [held])

    def flush(
        self, run: RunDescription, rows: list[Row], seq: int, *_: Any
    ) -> tuple[int, list[Row]]:
        """Store them, at its pace."""
        self.is_asked.set()
        if self.is_away:
            raise OperationalError("away")
        time.sleep(len(rows) / self.rows_per_second)
        self.answers.wait(WAIT_SECONDS)
        self.stored += rows
        return rows[-1]["seq"], []


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    made = Server(monkeypatch)
    yield made
    made.answers.set()


def on_disk(folder: Path) -> list[Row]:
    """What an heir would adopt."""
    found: list[Row] = []
    for path in folder.glob("*.spool"):
        file = DeadSpool.lock(path)
        assert file is not None
        spool = DeadSpool(path, file)
        while (batch := spool.peek()) is not None:
            found += batch
            spool.pop()
        spool.close()
    return found


def more_shed_than(shed: int) -> Callable[[RecorderFigures], bool]:
    return lambda now: now.shed > shed


def test_what_tells_of_events_shed_does_not_grow_while_the_disk_is_full(
    server: Server, tmp_path: Path
) -> None:
    """These rows are never shed, so there are few of them, and the last one is true."""
    server.is_away = True
    folder = tmp_path / "no-folder"
    folder.touch()
    config = RecorderConfig(spool_dir=folder, max_buffer_bytes=1 << 20, flush_interval_ms=20)
    recorder = Recorder(description(), config)
    recorder.start()
    for _ in range(20):
        shed = recorder.figures().shed
        for offset in range(3000):
            recorder.tell(success(offset))
        assert recorder.wait_for(more_shed_than(shed), 5)
    server.is_away = False
    assert recorder.close(WAIT_SECONDS)
    told = [json.loads(row["data"]) for row in server.stored if row["kind"] == "recorder_shed"]
    assert 1 <= len(told) <= 3
    counted = sum(account["shed"]["message_completed"] for account in told)
    assert counted == recorder.figures().shed > 40_000


# -- K1: what is told while Postgres is slow, hangs or is away


def test_events_told_faster_than_postgres_takes_them_are_kept(
    server: Server, tmp_path: Path
) -> None:
    server.rows_per_second = 3000
    recorder = Recorder(description(), RecorderConfig(spool_dir=tmp_path))
    recorder.start()
    for offset in range(1, 150_001):
        recorder.tell(success(offset))
    assert recorder.wait_for(lambda now: now.spooled_bytes > 0, WAIT_SECONDS)
    server.rows_per_second = 1e9
    recorder.close(WAIT_SECONDS)
    kept = [row["seq"] for row in [*server.stored, *on_disk(tmp_path)]]
    assert recorder.figures().shed == 0
    assert kept == list(range(1, 150_001))


def test_a_server_that_hangs_does_not_keep_events_from_the_disk(
    server: Server, tmp_path: Path
) -> None:
    """And what was on its way there is not on disk behind what came after it."""
    config = RecorderConfig(spool_dir=tmp_path, max_buffer_bytes=1 << 20, flush_interval_ms=20)
    recorder = Recorder(description(), config)
    server.answers.clear()
    recorder.start()
    recorder.tell(success(1))
    assert server.is_asked.wait(WAIT_SECONDS)
    for offset in range(2, 20_001):
        recorder.tell(success(offset))
    assert recorder.wait_for(lambda now: now.spooled_bytes > 0, 5), "nothing goes to disk"
    assert recorder.wait_for(lambda now: now.buffer_events < 5_000, 5), "memory is not bounded"
    assert recorder.close(1.0) is False
    assert [row["seq"] for row in on_disk(tmp_path)] == list(range(1, 20_001))
    assert recorder.figures().shed == 0


def test_a_failure_is_not_shed_while_a_success_is_kept(server: Server, tmp_path: Path) -> None:
    """Also where the disk holds failures alone, and the successes are younger and in memory."""
    server.is_away = True
    config = RecorderConfig(
        spool_dir=tmp_path, max_buffer_bytes=131_072, spool_max_bytes=262_144, flush_interval_ms=20
    )
    recorder = Recorder(description(), config)
    recorder.start()
    offset = 0
    while recorder.figures().spooled_bytes < 200_000 and offset < 1_000:
        offset += 1
        recorder.tell(failure(offset, bytes(1500)))
        recorder.wait_for(lambda now: now.buffer_events < 20, 0.05)
    full = offset
    for offset in range(full + 1, full + 1_501):
        is_failure = offset % 30 == 0
        recorder.tell(failure(offset, bytes(1500)) if is_failure else success(offset))
    assert recorder.wait_for(lambda now: now.shed > 0, WAIT_SECONDS)
    server.is_away = False
    recorder.close(WAIT_SECONDS)
    kept = Counter(row["kind"] for row in server.stored)
    assert kept["task_failed"] == full + 50, "a failure went though a success could have gone"
    assert recorder.figures().shed == 1_450 - kept["message_completed"]


def test_the_account_of_what_was_shed_names_its_place_and_number(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder_module, "MAX_TOLD_EVENTS", 100)
    recorder = Recorder(description(), RecorderConfig(spool_dir=tmp_path))
    for offset in range(1, 151):
        recorder.tell(success(offset))
    recorder.start()
    recorder.close(WAIT_SECONDS)
    seqs = {row["seq"] for row in server.stored}
    (account,) = [row for row in server.stored if row["kind"] == "recorder_shed"]
    data = json.loads(account["data"])
    missing = sorted(set(range(1, max(seqs))) - seqs)
    assert missing, "the loss shows as a gap"
    assert data["shed"] == {"message_completed": len(missing)}
    assert (data["first_seq"], data["last_seq"]) == (missing[0], missing[-1])
    assert recorder.figures().shed == len(missing)


# -- K2: the default partition


def store(run: RunDescription, count: int, ago: timedelta) -> None:
    """Rows of one day, as a worker left them that found no partition for it."""
    with connection.cursor() as cursor:
        cursor.execute(
            'INSERT INTO recorder_event (ts, run, seq, kind, topic, partition, "offset", data) '
            "SELECT %s, %s, n, 'consumed', 't', 1, n, '{}' FROM generate_series(1, %s) n",
            [timezone.now() - ago, run.id, count],
        )


@pytest.fixture
def clean_days() -> Iterator[None]:
    yield
    with connection.cursor() as cursor:
        cursor.execute("DROP TABLE IF EXISTS recorder_event_moving")
        for span in existing_spans():
            cursor.execute(f"DROP TABLE {span.table}")


@pytest.mark.django_db(transaction=True)
def test_a_large_default_partition_is_emptied_while_workers_write(
    clean_days: None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """200,000 rows and a statement timeout of 1 s stand for 1 M and the controller's 5 s."""
    caplog.set_level(logging.WARNING, "drakkar.recorder")
    logging.getLogger("drakkar").propagate = True
    run = description()
    writer.ensure_run(run)
    store(run, 100_000, timedelta())
    store(run, 100_000, timedelta(days=3))
    recorder = Recorder(description(), RecorderConfig(spool_dir=tmp_path, flush_interval_ms=10))
    recorder.start()
    moved, stopping = threading.Event(), threading.Event()

    def write() -> None:
        for offset in range(1, 1_000_000):
            recorder.tell(success(offset))
            if stopping.wait(0.001):
                return

    writing = threading.Thread(target=write)
    writing.start()
    try:
        writer.limit_statements(1000)
        create_ahead(timezone.now())
        moved.set()
    finally:
        stopping.set()
        writing.join()
        assert recorder.close(WAIT_SECONDS)
        connection.close()
        logging.getLogger("drakkar").propagate = False
    assert default_rows() == 0
    today = timezone.now().date()
    made = {today, today - timedelta(days=3), today + timedelta(days=10)}
    assert {Span.of_day(day) for day in made} <= {*existing_spans()}
    assert models.Event.objects.filter(run=run.id).count() == 200_000
    assert recorder.figures().shed == 0
    assert [record.message for record in caplog.records] == []


# -- K4: what else lies in the spool's folder


@pytest.mark.django_db(transaction=True)
def test_what_cannot_be_adopted_stops_no_other_adoption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another user's file, a folder, a pipe, a link, a socket, and bytes that are no spool."""
    dead = description()
    spool = Spool(tmp_path, dead, 1 << 20)
    spool.append([{"seq": 1, "kind": "consumed", "ts": timezone.now(), "topic": "t"}])
    spool.close()
    (left,) = tmp_path.glob("*.spool")
    left.rename(tmp_path / f"z{left.name}")
    foreign = tmp_path / "a.spool"
    foreign.write_bytes(b"another user's")
    (tmp_path / "b.spool").mkdir()
    os.mkfifo(tmp_path / "c.spool")
    (tmp_path / "d.spool").symlink_to("/etc/passwd")
    (tmp_path / "e.spool").write_bytes(b"DRKSPL1\n" + b"\xff" * 64)
    with socket.socket(socket.AF_UNIX) as held:
        held.bind(str(tmp_path / "f.spool"))
    refuse_of(foreign, monkeypatch)
    recorder = Recorder(description(), RecorderConfig(spool_dir=tmp_path, flush_interval_ms=20))
    recorder.start()
    try:
        until = time.monotonic() + 5
        while not models.Event.objects.filter(run=dead.id) and time.monotonic() < until:
            time.sleep(0.05)
        assert models.Event.objects.filter(run=dead.id).count() == 1
    finally:
        recorder.close(5)
    assert foreign.exists(), "it is not ours"


@pytest.mark.django_db(transaction=True)
def test_a_database_that_lost_the_run_gets_it_again(tmp_path: Path) -> None:
    """Restored from a backup, or made anew: the history goes on, and nothing piles up."""
    run = description()
    recorder = Recorder(run, RecorderConfig(spool_dir=tmp_path, flush_interval_ms=20))
    recorder.start()
    try:
        recorder.tell(success(1))
        assert recorder.wait_for(lambda now: now.recorded_seq == 1, 5)
        models.Event.objects.filter(run=run.id).delete()
        models.Run.objects.filter(id=run.id).delete()
        recorder.tell(success(2))
        assert recorder.wait_for(lambda now: now.recorded_seq == 2, 5)
    finally:
        recorder.close(5)
    assert list(models.Event.objects.filter(run=run.id).values_list("seq", flat=True)) == [2]


class Breaking:
    """Stores for real, but the connection breaks at the call that brings this row alone."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seq: int) -> None:
        self._flush, self._seq = writer.flush, seq
        monkeypatch.setattr(writer, "flush", self)

    def __call__(self, run: Any, rows: list[Row], *args: Any) -> int:
        """Store them, or break, once."""
        if [row["seq"] for row in rows] == [self._seq]:
            self._seq = -1
            raise OperationalError("server closed the connection unexpectedly")
        return self._flush(run, rows, *args)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("whose", ["own", "adopted"])
def test_a_row_refused_before_the_connection_broke_is_in_the_account(
    whose: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows 1 and 3 are stored, 2 was refused, then it breaks: the next try begins behind 3."""
    rows = [
        {"seq": seq, "kind": "consumed", "ts": timezone.now(), "topic": "t", "partition": part}
        for seq, part in ((1, 0), (2, 2**40), (3, 0), (4, 2**40), (5, 0))
    ]
    Breaking(monkeypatch, 5)
    dead = description()
    recorder = Recorder(description(), RecorderConfig(spool_dir=tmp_path, flush_interval_ms=20))
    if whose == "own":
        monkeypatch.setattr(recorder, "_formatted", lambda most: [rows.pop(0) for _ in rows[:]])
        monkeypatch.setattr(recorder, "_seq", 5)
    else:
        spool = Spool(tmp_path, dead, 1 << 20)
        spool.append(rows)
        spool.close()
    recorder.start()
    try:
        assert recorder.wait_for(lambda now: now.recorded_seq > 0, 10)
    finally:
        recorder.close(5)
    (told,) = models.Event.objects.filter(kind="recorder_shed").values_list("data", flat=True)
    assert told is not None
    assert told["ranges"] == [[2, 2, 1], [4, 4, 1]]
    assert told["of_run"] == ("" if whose == "own" else str(dead.id))


def refuse_of(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening the file is refused, as to a process that is not root."""
    real_open, real_path_open = os.open, Path.open

    def refuse(given: Any) -> None:
        if str(given) == str(path):
            raise PermissionError(13, "Permission denied", str(path))

    def opened(given: Any, *args: Any, **kwargs: Any) -> int:
        refuse(given)
        return real_open(given, *args, **kwargs)

    def path_opened(self: Path, *args: Any, **kwargs: Any) -> Any:
        refuse(self)
        return real_path_open(self, *args, **kwargs)

    monkeypatch.setattr(os, "open", opened)
    monkeypatch.setattr(Path, "open", path_opened)


@pytest.mark.django_db(transaction=True)
def test_the_bench_of_the_live_feed_leaves_other_runs_alone() -> None:
    run = description()
    writer.ensure_run(run)
    models.Run.objects.update(recorded_seq=77)
    fed = uuid4()
    fleet = live_feed.Fleet(workers=1, slots=8, events_per_second=100.0)
    models.Run.objects.create(**live_feed._run(fleet, 1, fed))
    live_feed._store(fleet, [fed], 0)
    assert models.Run.objects.get(id=run.id).recorded_seq == 77
    assert models.Run.objects.get(id=fed).recorded_seq == 2 * fleet.step_slots


def test_the_page_of_events_names_the_table_that_is_there() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "events.md").read_text()
    assert f"`{models.Event._meta.db_table}`" in page
