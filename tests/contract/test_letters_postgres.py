"""Rows of dead letters against a real PostgreSQL: with their events, once, whatever they hold."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from django.db import DataError

from domain.events import DeadLettered
from domain.letter import LIMIT_BYTES, LetterContent, fingerprint
from domain.message import Message
from domain.origin import REPLAY_HEADER
from recorder import models, writer
from recorder.adoption import Adoption
from recorder.config import RecorderConfig
from recorder.recorder import Recorder
from recorder.rows import Row, to_row
from recorder.runs import RunDescription
from recorder.spool import Spool
from sinks.letter_rows import headers_of, store_letters
from sinks.models import DeadLetter, LetterState
from tests.contract.test_recorder_postgres import description
from workers.runtime.build import project_letters

pytestmark = pytest.mark.django_db(transaction=True)
CONFIG = RecorderConfig()


def record(offset: int = 7, **changes: Any) -> Message[None]:
    fields: dict[str, Any] = {
        "key": b"k\x00\xff",
        "value": b'{"q": 1}',
        "headers": (("h", b"\x00\x80"), ("none", None)),
    }
    fields |= changes
    return Message(topic="t", partition=3, offset=offset, timestamp=1700, payload=None, **fields)


def event(
    message: Message[None], labels: Mapping[str, str] | None = None, **changes: Any
) -> DeadLettered:
    fields: dict[str, Any] = {
        "task_id": "3:7:0",
        "sink": None,
        "stage": "task",
        "failure": "exit",
        "reason": "exit code 2",
        "attempts": 4,
        "letter_topic": "t_dlq",
        "letter_partition": 3,
        "letter_offset": 100 + message.offset,
        "timestamp": message.timestamp,
        "delivery_id": "",
    }
    return DeadLettered(
        at=time.time(),
        topic=message.topic,
        partition=message.partition,
        offset=message.offset,
        content=LetterContent.of(message, "main", labels),
        **(fields | changes),
    )


def row(message: Message[None], seq: int, **changes: Any) -> Row:
    return to_row(event(message, **changes), seq, CONFIG)


@pytest.fixture
def run() -> RunDescription:
    made = description()
    writer.ensure_run(made)
    return made


def test_a_letter_gets_its_row_with_its_event(run: RunDescription) -> None:
    message = record()
    assert writer.flush(run, [row(message, 1)], 0, project_letters) == 1
    letter = DeadLetter.objects.get()
    assert str(letter) == "t_dlq:3:107"
    assert (letter.cluster, letter.worker, letter.state) == ("main", "w", LetterState.OPEN)
    assert (letter.topic, letter.partition, letter.offset) == ("t", 3, 7)
    assert (letter.stage, letter.failure, letter.attempts) == ("task", "exit", 4)
    assert (letter.reason, letter.task_id, letter.sink) == ("exit code 2", "3:7:0", "")
    assert letter.origin == "main/t/3/7/1700"
    assert (bytes(letter.key or b""), bytes(letter.value or b"")) == (message.key, message.value)
    assert headers_of(letter) == list(message.headers)
    assert (letter.is_whole, letter.size_bytes) == (True, message.size_bytes)
    assert letter.fingerprint == fingerprint(message.key, message.value, message.headers)
    told = models.Event.objects.get()
    assert "content" not in (told.data or {})


@pytest.mark.parametrize(
    ("labels", "kept"),
    [
        (None, None),
        ({}, {}),
        ({"tenant": "a\0b\ud800"}, {"tenant": "a\N{REPLACEMENT CHARACTER}b?"}),
    ],
)
def test_a_letter_has_the_labels_of_its_task_where_they_are_known(
    run: RunDescription, labels: dict[str, str] | None, kept: dict[str, str] | None
) -> None:
    writer.flush(run, [row(record(), 1, labels=labels)], 0, project_letters)
    assert DeadLetter.objects.get().labels == kept


def test_a_letter_that_another_release_spooled_has_unknown_labels(run: RunDescription) -> None:
    of_before = row(record(), 1, labels={"tenant": "a"})
    del of_before["content"]["labels"]
    store_letters("main", "w", [of_before])
    assert DeadLetter.objects.get().labels is None


def test_a_repeated_flush_and_a_second_run_make_no_second_row(run: RunDescription) -> None:
    rows = [row(record(offset), offset) for offset in (1, 2)]
    writer.flush(run, rows, 0, project_letters)
    assert writer.flush(run, rows, 0, project_letters) == 2  # an acknowledgement was lost
    store_letters("main", "heir", rows)
    assert DeadLetter.objects.count() == 2
    assert set(DeadLetter.objects.values_list("worker", flat=True)) == {"w"}


def test_the_same_place_of_another_cluster_is_another_letter(run: RunDescription) -> None:
    store_letters("main", "w", [row(record(), 1)])
    store_letters("other", "w", [row(record(), 1)])
    assert DeadLetter.objects.count() == 2


def test_a_halved_batch_stores_each_letter_once(run: RunDescription) -> None:
    rows = [row(record(offset), offset) for offset in range(1, 9)]
    rows[4]["partition"] = 2**40  # refused by Postgres
    stored, refused = writer.flush_narrowing(run, rows, 0, project_letters)
    assert (stored, [each["seq"] for each in refused]) == (8, [5])
    offsets = DeadLetter.objects.order_by("offset").values_list("offset", flat=True)
    assert list(offsets) == [1, 2, 3, 4, 6, 7, 8]


def test_a_projection_that_fails_takes_the_events_back(run: RunDescription) -> None:
    def refuse(_run: RunDescription, _rows: Sequence[Row]) -> None:
        raise DataError("no")

    with pytest.raises(DataError):
        writer.flush(run, [row(record(), 1)], 0, refuse)
    assert models.Event.objects.count() == 0
    assert models.Run.objects.get().recorded_seq == 0


def test_only_the_start_of_a_large_record_is_kept(run: RunDescription) -> None:
    many = tuple((f"h{number}", b"x" * 1000) for number in range(100))
    message = record(value=b"v" * (LIMIT_BYTES + 1), headers=many)
    store_letters("main", "w", [row(message, 1)])
    letter = DeadLetter.objects.get()
    assert len(letter.value or b"") == LIMIT_BYTES
    assert 0 < len(letter.headers) < 100
    assert (letter.is_whole, letter.size_bytes) == (False, message.size_bytes)
    assert letter.fingerprint == fingerprint(message.key, message.value, message.headers)


@pytest.mark.parametrize(
    "claimed", [b"c/t/0/1/\x00", b"\xff\x00/" * 900, b"a" * 9000 + b"/t/0/1/2"]
)
def test_nothing_that_a_record_holds_stops_a_batch(run: RunDescription, claimed: bytes) -> None:
    headers = ((REPLAY_HEADER, claimed), ("n\0ul\udcff", b"\x00"))
    message = record(headers=headers, key=None, value=None)
    rows = [row(message, 1, reason="a\0b\udcff", delivery_id="\0" * 9000)]
    assert writer.flush_narrowing(run, rows, 0, project_letters) == (1, [])
    letter = DeadLetter.objects.get()
    assert (letter.key, letter.value, letter.is_whole) == (None, None, False)


def test_a_letter_goes_through_buffer_and_thread() -> None:
    recorder = Recorder(description(time.time()), CONFIG, project=project_letters)
    recorder.start()
    recorder.tell(event(record()))
    assert recorder.close(10)
    assert DeadLetter.objects.get().offset == 7


def test_a_replays_letter_belongs_to_the_same_origin() -> None:
    header = (REPLAY_HEADER, b"main/t/3/7/1700")
    assert LetterContent.of(record(99, headers=(header,)), "main").origin == "main/t/3/7/1700"


def test_a_letter_spooled_by_a_dead_run_gets_its_row_from_the_heir(tmp_path: Path) -> None:
    dead = description(time.time())
    spool = Spool(tmp_path, dead, 1024 * 1024)
    assert spool.append([row(record(), 1)])
    spool.close()
    Adoption(tmp_path, description().id, project_letters).step(1000.0)
    letter = DeadLetter.objects.get()
    assert (letter.offset, bytes(letter.value or b"")) == (7, record().value)
    assert headers_of(letter) == list(record().headers)
    assert models.Event.objects.get().run == dead.id
