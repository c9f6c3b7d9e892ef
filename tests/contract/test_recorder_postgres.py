"""The recorder against a real PostgreSQL: exactly once, in order, nothing lost while it is away."""

from __future__ import annotations

import json
import secrets
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest import mock

import psutil
import pytest
from django.db import DatabaseError, connections
from django.utils import timezone

from domain.events import COLUMNS, DeadLettered, Event, MessageCompleted, TaskFailed, TaskStarted
from domain.letter import LetterContent
from domain.message import Message
from integration.services.postgres import RunningPostgres
from recorder import models, writer
from recorder.config import RecorderConfig, SampleConfig
from recorder.databases import history_alias
from recorder.partitions import create_ahead, default_rows, existing_spans
from recorder.projections import in_turn
from recorder.reading import events_of
from recorder.recorder import Recorder
from recorder.rows import REPLACEMENT, to_row
from recorder.runs import RunDescription, uuid7
from recorder.thinning import Thinning
from tests.contract.sinks.subject import freeze, thaw

pytestmark = pytest.mark.django_db(transaction=True)
NOW = 1_790_000_000.25
WAIT_SECONDS = 15.0


def description(wall: float = NOW) -> RunDescription:
    return RunDescription(
        id=uuid7(wall),
        cluster="main",
        worker="w",
        host="h",
        pid=1,
        version="0",
        isolation="groups",
        slots=4,
        config_hash="x",
        config={"a": 1},
        environment={},
        started_at=wall,
    )


def fate(offset: int, at: float = NOW) -> MessageCompleted:
    return MessageCompleted(
        at=at,
        topic="t",
        partition=1,
        offset=offset,
        fate="delivered",
        duration_ms=1.5,
        reason="",
    )


def rows(count: int, first: int = 1) -> list[dict[str, Any]]:
    config = RecorderConfig()
    return [to_row(fate(seq), seq, config) for seq in range(first, first + count)]


def offsets() -> list[int]:
    return [event.offset or 0 for event in models.Event.objects.order_by("seq")]


def test_a_flush_repeated_after_a_lost_acknowledgement_stores_each_row_once() -> None:
    run = description()
    writer.ensure_run(run)
    assert writer.flush(run, rows(100), 0) == 100
    assert writer.flush(run, rows(100), 0) == 100
    assert writer.flush(run, rows(50, first=81), 80) == 130
    assert offsets() == list(range(1, 131))


def test_a_flush_that_dies_before_its_commit_leaves_nothing() -> None:
    run = description()
    writer.ensure_run(run)
    with (
        mock.patch.object(models.EventManager, "copy_in", side_effect=RuntimeError("killed")),
        pytest.raises(RuntimeError),
    ):
        writer.flush(run, rows(10), 0)
    assert offsets() == []
    assert writer.flush(run, rows(10), 0) == 10
    assert offsets() == list(range(1, 11))


@pytest.mark.parametrize(
    "bad",
    [
        {"slot": 2**31},
        {"pid": -(2**31) - 1},
        {"exit_code": 2**32 + 5},  # Its lower half is a good exit code.
        {"stdout_size": 2**63},
        {"offset": 2**70},
        {"topic": "t\0"},
        {"labels": "{"},
        {"sink": 5},
    ],
    ids=str,
)
def test_a_refused_row_is_found_by_halving_and_its_neighbours_are_stored(
    bad: dict[str, Any],
) -> None:
    run = description()
    writer.ensure_run(run)
    batch = rows(9)
    batch[4].update(bad)
    stored, refused = writer.flush_narrowing(run, batch, 0)
    assert [row["seq"] for row in refused] == [5]
    assert stored == 9
    assert offsets() == [1, 2, 3, 4, 6, 7, 8, 9]


def test_each_batch_stored_is_timed(tmp_path: Path) -> None:
    recorder = Recorder(description(), RecorderConfig(spool_dir=tmp_path))
    recorder.start()
    recorder.tell(fate(1))
    assert recorder.wait_for(lambda figures: figures.recorded_seq == 1, WAIT_SECONDS)
    assert recorder.close(WAIT_SECONDS)
    assert sum(recorder.figures().flush_counts) == 1
    assert 0 < recorder.figures().flush_sum_seconds < WAIT_SECONDS


def test_each_column_comes_back_through_the_orm() -> None:
    run = description()
    writer.ensure_run(run)
    event = TaskFailed(
        at=NOW,
        topic="t",
        partition=3,
        offset=2**40,
        task_id="3:1:0",
        slot=2,
        attempt=4,
        exit_code=-9,
        pid=77,
        duration_ms=1.25,
        queue_ms=0.5,
        labels={"k\x00": "v\ud800"},
        args=("a", "b\x00"),
        stdout=b"\x00\xff",
        stderr=b"e",
        stdout_size=2,
        stderr_size=1,
        started_at=NOW,
        user_cpu_seconds=0.1,
        system_cpu_seconds=0.2,
        max_rss_bytes=5,
        failure="signal",
        detail="killed",
    )
    row = to_row(event, 1, RecorderConfig())
    writer.flush(run, [row], 0)
    stored = models.Event.objects.get()
    assert stored.ts == datetime.fromtimestamp(NOW, UTC)
    assert (stored.run, stored.seq, stored.kind) == (run.id, 1, "task_failed")
    for name in set(COLUMNS) - {"labels", "args", "stdout", "stderr", "sink"}:
        assert getattr(stored, name) == getattr(event, name), name
    assert stored.labels == {f"k{REPLACEMENT}": "v?"}
    assert stored.args == ["a", f"b{REPLACEMENT}"]
    assert (bytes(stored.stdout or b""), bytes(stored.stderr or b"")) == (b"\x00\xff", b"e")
    assert stored.data is not None
    assert stored.data["failure"] == "signal"


@pytest.mark.parametrize("bound", [-(2**31), 2**31 - 1])
def test_the_longest_integers_a_column_holds_come_back(bound: int) -> None:
    run = description()
    writer.ensure_run(run)
    writer.flush(run, [{**rows(1)[0], "exit_code": bound, "offset": bound * 2**32}], 0)
    stored = models.Event.objects.get()
    assert (stored.exit_code, stored.offset) == (bound, bound * 2**32)


def test_json_columns_take_values_as_well_as_text() -> None:
    run = description()
    writer.ensure_run(run)
    given = {"labels": {"a": 1, 2: None}, "args": ["x"], "data": '{"b": [1.5]}'}
    writer.flush(run, [{**rows(1)[0], **given}], 0)
    stored = models.Event.objects.get()
    assert (stored.labels, stored.args) == ({"a": 1, "2": None}, ["x"])
    assert stored.data == {"b": [1.5]}


def test_day_partitions_are_made_ahead_and_the_default_one_is_emptied() -> None:
    run = description()
    writer.ensure_run(run)
    now = timezone.now()
    writer.flush(run, [{**row, "ts": now} for row in rows(3)], 0)
    made = create_ahead(now)
    try:
        assert default_rows() == 0
        assert offsets() == [1, 2, 3]
        assert create_ahead(now) == []
        assert set(made) <= {*existing_spans()}
    finally:
        with connections[history_alias()].cursor() as cursor:
            for span in existing_spans():
                cursor.execute(f"DROP TABLE {span.table}")


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[Recorder]:
    config = RecorderConfig(flush_interval_ms=20, spool_dir=tmp_path, max_buffer_bytes=65_536)
    made = Recorder(description(time.time()), config)
    yield made
    made.close(5)


def test_events_told_while_postgres_is_away_are_stored_in_order_when_it_is_back(
    recorder: Recorder,
) -> None:
    refuse = mock.patch("recorder.recorder.ensure_run", side_effect=DatabaseError("away"))
    with refuse:
        recorder.start()
        for offset in range(1, 3001):
            recorder.tell(fate(offset, time.time()))
        assert recorder.wait_for(lambda now: now.spooled_bytes > 0, WAIT_SECONDS)
        assert not recorder.figures().is_connected
    assert recorder.wait_for(lambda now: now.recorded_seq == 3000, WAIT_SECONDS)
    assert offsets() == list(range(1, 3001))
    assert recorder.figures().spooled_bytes == 0
    assert recorder.figures().shed == 0


def test_what_neither_buffer_nor_disk_can_keep_is_counted_exactly(tmp_path: Path) -> None:
    config = RecorderConfig(
        flush_interval_ms=20, spool_dir=tmp_path, max_buffer_bytes=65_536, spool_max_bytes=65_536
    )
    recorder = Recorder(description(time.time()), config)
    refuse = mock.patch("recorder.recorder.ensure_run", side_effect=DatabaseError("away"))
    with refuse:
        recorder.start()
        for offset in range(1, 20_001):
            recorder.tell(fate(offset, time.time()))
        recorder.tell(letter())
        assert recorder.wait_for(lambda now: now.shed > 0, WAIT_SECONDS)
        assert recorder.wait_for(lambda now: now.buffer_events < 2000, WAIT_SECONDS)
    assert recorder.wait_for(lambda now: now.is_connected, WAIT_SECONDS)
    assert recorder.close(10)
    kinds = [event.kind for event in models.Event.objects.order_by("seq")]
    shed = models.Event.objects.filter(kind="recorder_shed").values_list("data", flat=True)
    counted = sum(sum((data or {})["shed"].values()) for data in shed)
    assert kinds.count("message_completed") + counted == 20_000
    assert kinds.count("dead_lettered") == 1
    assert recorder.figures().shed == counted


def test_of_a_sampled_history_what_is_stored_and_what_is_counted_is_all_that_was_told(
    tmp_path: Path,
) -> None:
    config = RecorderConfig(
        flush_interval_ms=20, spool_dir=tmp_path, sample=SampleConfig(one_in=10)
    )
    recorder = Recorder(description(time.time()), config)
    recorder.start()
    for offset in range(1, 3001):
        recorder.tell(fate(offset, time.time()))
    recorder.tell(letter())
    assert recorder.close(WAIT_SECONDS)
    assert recorder.figures().buffer_events == 0
    stored = Counter(event.kind for event in events_of(models.Event.objects.all()))
    accounts = models.Event.objects.filter(kind="sampled").values_list("data", flat=True)
    counted = sum((data or {})["events"]["message_completed"] for data in accounts)
    assert counted == sum((data or {})["fates"]["delivered"] for data in accounts) > 2000
    assert stored["message_completed"] + counted == 3000
    assert stored["dead_lettered"] == 1
    seqs = [event.seq for event in events_of(models.Event.objects.all())]
    assert sorted(seqs) == [*range(1, len(seqs) + 1)]


def letter() -> Event:
    record: Message[None] = Message(
        topic="t", partition=1, offset=1, key=None, value=b"", headers=(), timestamp=0, payload=None
    )
    return DeadLettered(
        at=time.time(),
        topic="t",
        partition=1,
        offset=1,
        task_id=None,
        sink=None,
        stage="parse",
        failure="parse",
        reason="",
        attempts=0,
        letter_topic="d",
        letter_partition=0,
        letter_offset=0,
        timestamp=0,
        delivery_id="",
        content=LetterContent.of(record, "main"),
    )


def test_a_row_past_a_limit_of_postgres_is_found_and_its_neighbours_are_stored() -> None:
    run = description()
    writer.ensure_run(run)
    batch = rows(5)
    batch[2]["data"] = json.dumps({"wide": secrets.token_hex(10_000)})
    with connections[history_alias()].cursor() as cursor:
        cursor.execute("CREATE INDEX too_narrow ON recorder_event (CAST(data AS text))")
    try:
        stored, refused = writer.flush_narrowing(run, batch, 0)
    finally:
        with connections[history_alias()].cursor() as cursor:
            cursor.execute("DROP INDEX too_narrow")
    assert [row["seq"] for row in refused] == [3]
    assert (stored, offsets()) == (5, [1, 2, 4, 5])


@contextmanager
def frozen(server: RunningPostgres) -> Iterator[None]:
    """The postmaster and all its children hang until the block ends."""
    postmaster = psutil.Process(server.pid)
    processes = [postmaster, *postmaster.children(recursive=True)]
    freeze(processes)
    try:
        yield
    finally:
        thaw(processes)


@pytest.mark.slow
def test_a_frozen_server_does_not_hold_the_writer(
    recorder: Recorder, postgres: RunningPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recorder.recorder.STATEMENT_TIMEOUT_MS", 500)
    recorder.start()
    recorder.tell(fate(1, time.time()))
    assert recorder.wait_for(lambda now: now.recorded_seq == 1, WAIT_SECONDS)
    with frozen(postgres):
        recorder.tell(fate(2, time.time()))
        assert recorder.wait_for(lambda now: not now.is_connected, WAIT_SECONDS)
    assert recorder.wait_for(lambda now: now.recorded_seq == 2, WAIT_SECONDS)
    assert offsets() == [1, 2]


def test_at_the_stop_a_frozen_server_leaves_everything_on_disk_in_time(
    recorder: Recorder, postgres: RunningPostgres
) -> None:
    recorder.start()
    recorder.tell(fate(1, time.time()))
    assert recorder.wait_for(lambda now: now.recorded_seq == 1, WAIT_SECONDS)
    with frozen(postgres):
        recorder.tell(fate(2, time.time()))
        assert recorder.close(1.0) is False
        left = recorder.figures()
    assert (left.buffer_events, left.shed) == (0, 0)
    assert left.spooled_bytes > 0


def started(labels: dict[str, Any]) -> TaskStarted:
    return TaskStarted(
        at=time.time(),
        topic="t",
        partition=1,
        offset=1,
        task_id="1:1:0",
        slot=0,
        attempt=1,
        queue_ms=0.0,
        labels=labels,
        args=(),
        source_offsets=(1,),
    )


def test_an_event_nobody_can_write_down_is_counted_and_the_rest_is_stored(
    recorder: Recorder,
) -> None:
    endless: dict[str, Any] = {}
    endless["again"] = endless
    recorder.start()
    for event in (started(endless), started({"huge": 2**70}), fate(7, time.time())):
        recorder.tell(event)
    assert recorder.wait_for(lambda now: now.recorded_seq >= 3, WAIT_SECONDS)
    assert recorder.figures().shed == 1
    told = models.Event.objects.get(kind="recorder_shed").data
    assert (told or {})["shed"] == {"task_started": 1}
    assert models.Event.objects.get(kind="task_started").labels == {"huge": str(2**70)}
    assert models.Event.objects.get(kind="message_completed").offset == 7


def test_an_unforeseen_error_does_not_end_the_recorder(tmp_path: Path) -> None:
    errors: list[Exception] = [KeyError("a fault of ours")]

    def project(_run: RunDescription, _rows: Any) -> None:
        if errors:
            raise errors.pop()

    config = RecorderConfig(flush_interval_ms=20, spool_dir=tmp_path)
    recorder = Recorder(description(time.time()), config, project=project)
    recorder.start()
    recorder.tell(fate(1, time.time()))
    assert recorder.wait_for(lambda now: now.recorded_seq == 1, WAIT_SECONDS)
    assert recorder.close(5)
    assert offsets() == [1]


def test_projections_run_in_turn_and_are_one_transaction_with_the_events() -> None:
    told: list[str] = []

    def first(_run: RunDescription, rows: Any) -> None:
        told.append(f"first of {len(rows)}")
        models.RollupSource.objects.create(cluster="main", worker="w", host="h")

    def second(_run: RunDescription, rows: Any) -> None:
        told.append(f"second of {len(rows)}")
        raise RuntimeError("killed")

    run = description()
    writer.ensure_run(run)
    with pytest.raises(RuntimeError):
        writer.flush(run, rows(3), 0, in_turn(first, second))
    assert told == ["first of 3", "second of 3"]
    assert not models.RollupSource.objects.exists()
    assert offsets() == []


def test_thinning_passes_everything_on_at_threshold_zero() -> None:
    assert list(Thinning(0).pass_on(fate(1))) == [fate(1)]


def test_the_end_is_stored_though_the_connection_broke_while_nothing_was_told(
    tmp_path: Path,
) -> None:
    """Postgres was away for a while and is back: only the next use of the connection tells."""
    recorder = Recorder(
        description(time.time()), RecorderConfig(flush_interval_ms=1_000, spool_dir=tmp_path)
    )
    recorder.start()
    recorder.tell(fate(1, time.time()))
    assert recorder.wait_for(lambda now: now.recorded_seq == 1, WAIT_SECONDS)
    with connections[history_alias()].cursor() as cursor:
        cursor.execute(
            "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        assert cursor.fetchone()[0] >= 1
    recorder.tell(fate(2, time.time()))
    assert recorder.close(10.0), "all of it is in Postgres, none is left on disk"
    assert offsets() == [1, 2]
