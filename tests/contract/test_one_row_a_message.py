"""Both forms of the history against each other: a row a message, and a row an event.

The same events are told twice, once with folding switched off; every reader answers alike.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import fields
from datetime import datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from django.contrib.admin.sites import site
from django.contrib.auth.models import User
from django.db import connection
from django.db.models import QuerySet
from django.test import Client

from domain.events import (
    KINDS,
    Arranged,
    Assigned,
    Collected,
    Committed,
    Consumed,
    Delivered,
    Event,
    MessageCompleted,
    TaskCompleted,
    TaskFailed,
    TaskRetried,
    TaskStarted,
)
from domain.letter import LetterContent
from domain.parking import ParkingCause
from integration.told import TOLD
from recorder import models
from recorder.admin import EventAdmin
from recorder.api import task_document, trace_document
from recorder.config import RecorderConfig
from recorder.export import Selection, export, steps
from recorder.lookup import find
from recorder.message_row import MESSAGE, Unfoldable, expand
from recorder.queries import Filters, Page, page, texts_of
from recorder.reading import of_task, of_text
from recorder.recorder import Recorder
from recorder.runs import RunDescription, uuid7
from recorder.task_detail import task_detail
from recorder.trace import Place, trace
from workers.control_plane.live.reading import between, recent

pytestmark = pytest.mark.django_db(transaction=True)
NOW = 1_790_000_000.0
WAIT_SECONDS = 30.0
MANY_TURNS = 9
"""Of the recorder's threads: what was told before them was taken in."""
TOPIC = "requests"
RUN = RunDescription(
    id=uuid7(NOW), cluster="main", worker="w", host="h", pid=1, version="0", isolation="groups",
    slots=4, config_hash="x", config={}, environment={}, started_at=NOW,
)  # fmt: skip
ANY: dict[str, Any] = {
    "str": "a text",
    "str | None": None,
    "int": 3,
    "int | None": None,
    "float": 1.25,
    "float | None": None,
    "bytes | None": None,
    "Mapping[str, Any] | None": None,
    "bool": True,
    "bytes": b"out",
    "Sequence[str]": ["a", "b"],
    "Sequence[int]": [7],
    "Sequence[Sequence[int]]": [[1, 2, 2]],
    "Mapping[str, str]": {"who": "mara", "a": "b"},
    "Mapping[str, int]": {"consumed": 2},
    "tuple[str, ...] | None": None,
    "ParkingCause": next(iter(ParkingCause)),
}


QUESTIONS = (
    "3:7", "3:50:1", "who=who-7", "who-7", "m50", "message=m62", 'b=\u00e4 "quoted"', "nobody",
    "who=m50",
)  # fmt: skip

SLICE, SLICE_STEP, SLICES = 14, 5, 150
"""Characters of texts that are looked for, from where to where, and how many of them."""


class Told:
    """What a run tells, each event later than the one before."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._at = NOW

    def tell(self, kind: type[Event], offset: int | None = None, **values: Any) -> None:
        self._at += 0.0012345
        known = {"at": self._at, "topic": TOPIC, "partition": 3, "offset": offset, **values}
        for each in fields(kind):
            if each.name not in known:
                known[each.name] = ANY.get(str(each.type), "")
        names = {each.name for each in fields(kind)}
        if "content" in names:
            content = {each.name: ANY.get(str(each.type)) for each in fields(LetterContent)}
            known["content"] = LetterContent(**content)  # type: ignore[arg-type]
        self.events.append(kind(**{name: known[name] for name in names}))

    def begins(self, offset: int, tasks: Sequence[str]) -> None:
        self.tell(Consumed, offset, timestamp=1_790_000_000_123, size_bytes=77)
        labels = {"message": f"m{offset}"}
        self.tell(Arranged, offset, task_ids=tasks, labels=labels, duration_ms=0.12345)

    def runs(self, offset: int, task: str, **ended: Any) -> None:
        labels = {"who": f"who-{offset}", "b": '\u00e4 "quoted"', "a" * 30: "long"}
        same = {
            "task_id": task, "attempt": 1, "slot": 2, "queue_ms": 1.23456, "labels": labels,
            "args": ("--token", "s3cret", f"n{offset}"),
        }  # fmt: skip
        self.tell(TaskStarted, offset, source_offsets=[offset], **same)
        began = self.events[-1].at
        end = {"exit_code": 0, "pid": 4711, "duration_ms": 2.3456789, "started_at": began}
        self.tell(ended.pop("kind", TaskCompleted), offset, **{**same, **end, **ended})

    def ends(self, offset: int, task: str | None, fate: str = "delivered") -> None:
        self.tell(Collected, offset, task_id=task, hook="collect", payloads=1)
        self.tell(
            Delivered, offset, task_id=task, sink="results", sink_kind="kafka", attempt=1,
            delivery_id=f"main/{TOPIC}/3/{offset}/1790000000123/0/collect/0",
        )  # fmt: skip
        self.tell(MessageCompleted, offset, fate=fate, reason="", duration_ms=9.87654)


def story() -> list[Event]:
    """Usual messages beside each other, unusual ones of every sort, and the whole vocabulary."""
    told = Told()
    told.tell(Assigned, 0)
    for first in range(0, 40, 4):
        offsets = range(first, first + 4)
        for offset in offsets:
            told.begins(offset, [f"3:{offset}:0"])
        for offset in offsets:
            told.runs(offset, f"3:{offset}:0")
        told.tell(Committed, first)
        for offset in offsets:
            told.ends(offset, f"3:{offset}:0")
    told.begins(50, ["3:50:0", "3:50:1"])
    for task in ("3:50:0", "3:50:1"):
        told.runs(50, task)
    told.ends(50, None)
    told.begins(51, ["3:51:0"])
    told.runs(51, "3:51:0", kind=TaskFailed, exit_code=2, failure="exit")
    told.tell(TaskRetried, 51, task_id="3:51:0", attempt=1)
    told.runs(51, "3:51:0")
    told.ends(51, "3:51:0")
    told.begins(52, ["3:52:0"])
    told.runs(52, "3:52:0", duration_ms=700.0)
    told.ends(52, "3:52:0")
    for offset in (53, 54):
        told.begins(offset, ["3:53:0~" + "a" * 32])
    told.runs(53, "3:53:0~" + "a" * 32, source_offsets=[53, 54])
    for offset in (53, 54):
        told.ends(offset, "3:53:0~" + "a" * 32)
    told.begins(55, [])
    told.tell(MessageCompleted, 55, fate="filtered", reason="")
    for kind in KINDS.values():
        told.tell(kind.event, 60, task_id="3:60:0")
        told.begins(61, [])
    told.begins(62, ["3:62:0"])
    return told.events


def store(tmp_path: Path, *, is_folded: bool) -> None:
    """Tell the story to a recorder, into empty tables."""
    models.Event.objects.all().delete()
    models.Run.objects.all().delete()
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE recorder_event ALTER COLUMN id RESTART WITH 1")
    recorder = Recorder(RUN, RecorderConfig(spool_dir=tmp_path))
    for event in story():
        recorder.tell(event)
    fold = mock.patch("recorder.recorder.fold", side_effect=Unfoldable)
    if not is_folded:
        fold.start()
    try:
        recorder.start()
        assert recorder.close(WAIT_SECONDS)
    finally:
        mock.patch.stopall()
    models.RunState.objects.create(run_id=RUN.id, state="ready", beat_at="2027-01-01T00:00Z")


def shown(event: models.Event) -> tuple[Any, ...]:
    """All of an event but its id, which is the row's, and its output, which no list shows."""
    hidden = ("id", "stdout", "stderr")
    names = [each.name for each in models.Event._meta.concrete_fields]
    return tuple(getattr(event, name) for name in names if name not in hidden)


def pages(filters: Filters) -> Iterator[Any]:
    """Every page, from the newest to the oldest and all the way back."""
    found = page(filters)
    yield _page(found)
    while found.older is not None:
        found = page(filters, older=found.older)
        yield _page(found)
    while found.newer is not None:
        found = page(filters, newer=found.newer)
        yield _page(found)


def _page(found: Page) -> Any:
    edges = [key and key[0] for key in (found.older, found.newer)]
    return [shown(event) for event in found.rows], edges, found.searched_to


def every_filter() -> Iterator[Filters]:
    yield Filters()
    for kind in KINDS:
        yield Filters(kinds=[kind])
    yield Filters(kinds=["delivered", "committed", "task_failed"])
    for task in ("3:2:0", "3:50:1", "3:51:0", "3:53:0~" + "a" * 32, "3:60:0", "none", "9:9:9"):
        yield Filters(task=task)
    yield Filters(label=("who", "who-7"))
    yield Filters(label=("message", "m50"))
    for text in ("who-7", "N7", "payloads", '"hook": "collect"', "Requests", "3:5", "nothing", "%",
                 "3:53:0~aaa", "requests/3/7", "1790000000123", '"fate": "delivered"'):  # fmt: skip
        yield Filters(text=text)
    yield Filters(cluster="main", worker="w", topic=TOPIC, partition=3, kinds=["collected"])
    moments = [datetime.fromisoformat("2026-09-21T14:13:20+00:00") + timedelta(seconds=n / 10)
               for n in range(4)]  # fmt: skip
    for since in moments:
        yield Filters(since=since, until=since + timedelta(seconds=0.1))
        yield Filters(until=since, kinds=["task_started", "control"])


def live() -> Iterator[Any]:
    """What one who comes back gets from wherever it was, and one who begins."""
    run, last = str(RUN.id), models.Run.objects.get(id=RUN.id).recorded_seq
    for first in range(0, last, 9):
        yield between({run: first}, {run: last})
    beats = list(models.RunState.objects.select_related("run"))
    for until in (last, last - 30):
        yield recent(beats, {run: until}, ("", ""))


def exported(tmp_path: Path) -> Iterator[Any]:
    chosen = [
        Selection(),
        Selection(kinds=["delivered", "parked"]),
        Selection(since=datetime.fromisoformat("2026-09-21T14:13:20.1+00:00"),
                  until=datetime.fromisoformat("2026-09-21T14:13:20.3+00:00")),
    ]  # fmt: skip
    for number, selection in enumerate(chosen):
        for name in ("jsonl", "csv", "sqlite"):
            path = tmp_path / f"{number}.{name}"
            summary = export(selection, path, name)
            yield summary.events, summary.by_kind
            yield _rows_of(path) if name == "sqlite" else path.read_bytes()


def _rows_of(path: Path) -> Any:
    database = sqlite3.connect(path)
    return [database.execute(f"SELECT * FROM {name}").fetchall()
            for name in ("runs", "events", "traces", "tasks")]  # fmt: skip


def admin_list() -> Iterator[Any]:
    rows: QuerySet[models.Event] = models.Event.objects.order_by("-ts", "-id")
    of_pages = EventAdmin(models.Event, site).get_paginator(None, rows, 100)  # type: ignore[arg-type]
    for number in range(1, 5):
        for event in of_pages.page(number).object_list:
            yield shown(event)
            detail = EventAdmin(models.Event, site).get_object(None, str(event.pk))  # type: ignore[arg-type]
            assert detail is not None
            assert shown(detail) == shown(event)


def answers(tmp_path: Path, client: Client) -> Iterator[tuple[str, Any]]:
    """What every reader says, by its name."""
    for filters in every_filter():
        yield f"page {filters}", list(pages(filters))
    for offset in (0, 7, 39, 50, 51, 52, 53, 54, 55, 60, 61, 62, 99):
        found = trace(Place(topic=TOPIC, partition=3, offset=offset))
        if found.open_until is not None:
            found.open_until = datetime.fromtimestamp(0).astimezone()
        yield f"trace {offset}", trace_document(found)
    for task in ("3:0:0", "3:50:1", "3:51:0", "3:52:0", "3:53:0~" + "a" * 32, "3:60:0"):
        detail = task_detail("main", task)
        assert detail is not None
        yield f"task {task}", task_document(detail)
    for question in QUESTIONS:
        yield f"find {question}", find(question)
    yield "live", list(live())
    with connection.cursor() as cursor:
        columns = 'run, ts, seq, kind, partition, "offset"'
        cursor.execute(f"SELECT {columns} FROM {TOLD} told ORDER BY seq")
        yield "verdict", cursor.fetchall()
    yield "export", list(exported(tmp_path))
    yield "admin", list(admin_list())
    for name in ("csv", "json"):
        asked = client.get("/history/export", {"format": name, "text": "who-1"})
        assert asked.status_code == 200
        yield f"history {name}", asked.content


def test_every_reader_answers_alike_whatever_form_the_rows_have(
    tmp_path: Path, client: Client
) -> None:
    client.force_login(User.objects.create_superuser("root"))
    store(tmp_path, is_folded=True)
    folded = dict(answers(tmp_path, client))
    rows = models.Event.objects.filter(kind=MESSAGE)
    assert rows.count() > 40
    store(tmp_path, is_folded=False)
    plain = dict(answers(tmp_path, client))
    assert not models.Event.objects.filter(kind=MESSAGE).exists()
    assert models.Event.objects.count() == len(story())
    for name, answer in plain.items():
        if isinstance(answer, list):
            for one, other in zip(folded[name], answer, strict=True):
                assert one == other, name
        assert folded[name] == answer, name


def test_a_text_that_an_event_holds_is_found_in_its_row(tmp_path: Path) -> None:
    store(tmp_path, is_folded=True)
    holders: dict[str, set[int]] = {}
    rows = list(models.Event.objects.all())
    for row in rows:
        for event in expand(row):
            for text in texts_of(event):
                for start in range(0, len(text), SLICE_STEP):
                    holders.setdefault(text[start : start + SLICE], set()).add(row.pk)
    few = sorted(text for text in holders if len(holders[text]) < len(rows) // 4)
    for text in few[:: max(1, len(few) // SLICES)]:
        asked = text.swapcase() if text.isascii() else text
        found = set(models.Event.objects.filter(of_text(asked)).values_list("id", flat=True))
        assert holders[text] <= found, text
        assert len(found) < len(rows), text


def test_a_message_that_waited_for_its_turn_is_one_row_too(tmp_path: Path) -> None:
    told = Told()
    told.begins(1, ["3:1:0"])
    recorder = Recorder(RUN, RecorderConfig(spool_dir=tmp_path), wall=lambda: NOW + 1.0)
    turns = count()
    for event in told.events:
        recorder.tell(event)
    recorder.start()
    assert recorder.wait_for(lambda _: next(turns) > MANY_TURNS, WAIT_SECONDS)
    assert recorder.figures().buffer_events == 2
    told.runs(1, "3:1:0")
    told.ends(1, "3:1:0")
    for event in told.events[2:]:
        recorder.tell(event)
    assert recorder.close(WAIT_SECONDS)
    (row,) = models.Event.objects.all()
    assert (row.seq, len(expand(row))) == (len(told.events), len(told.events))


def test_numbers_have_no_gap_and_the_last_is_the_runs(tmp_path: Path) -> None:
    store(tmp_path, is_folded=True)
    seen = 0
    for row in models.Event.objects.order_by("seq"):
        first, *_ = expand(row)
        assert first.seq == seen + 1
        seen = row.seq
    assert seen == len(story()) == models.Run.objects.get().recorded_seq


def test_a_task_is_found_beside_many_rows_of_its_messages_other_tasks(tmp_path: Path) -> None:
    told = Told()
    for number in range(40):
        told.begins(1, [f"3:1:{number}"])
        told.runs(1, f"3:1:{number}")
        told.tell(Assigned, 0)
    recorder = Recorder(RUN, RecorderConfig(spool_dir=tmp_path))
    for event in told.events:
        recorder.tell(event)
    recorder.start()
    assert recorder.close(WAIT_SECONDS)
    assert models.Event.objects.filter(kind=MESSAGE).count() == 40
    assert models.Event.objects.filter(of_task("3:1:7")).count() == 1
    with mock.patch("recorder.task_detail.MAX_ROWS", 5):
        detail = task_detail("main", "3:1:39")
    assert detail is not None
    assert [execution.state for execution in detail.executions] == ["completed"]


def test_a_step_of_an_export_is_bounded_in_events_not_only_in_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(tmp_path, is_folded=True)
    monkeypatch.setattr("recorder.export.STEP_BYTES", 64 * 256)
    monkeypatch.setattr("recorder.export.FIRST_STEP_ROWS", 4)
    sizes = [len(rows) for _, rows in steps(models.Run.objects.get(), Selection())]
    assert sum(sizes) == len(story())
    assert max(sizes) < 100
