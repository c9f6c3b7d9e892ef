"""Traces over runs, workers and clusters on a real PostgreSQL."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from recorder import lookup, queries, reading
from recorder.lookup import NotUnderstood, Search, find, search
from recorder.spans import Life, Span
from recorder.task_detail import task_detail
from recorder.trace import MAX_EVENTS, Place, trace
from tests.support.factories import TOPIC, Story, at, make_events, make_run
from workers.control import CancelArguments

pytestmark = pytest.mark.django_db
PLACE = Place(topic=TOPIC, partition=3, offset=7)
MAX_QUERIES = 15


def two_lives() -> None:
    """The first owner fails once and loses the partition; the heir finishes and commits."""
    first = Story(make_run(worker="worker-1", beat__state="stopped"))
    first.consumed(0, 7)
    first.arranged(0.1, 7, ["3:7:0"], "acme")
    first.ran(0.3, "3:7:0", 1, failure="timeout", exit_code=-9)
    data = {"delay_ms": 500.0, "failure": "timeout"}
    first.tell(1.3, "task_retried", 7, task_id="3:7:0", attempt=1, data=data)
    first.tell(2, "revoked", 0, duration_ms=3.0, data={"epoch": 1, "reason": "rebalance"})
    heir = Story(make_run(worker="worker-2"))
    heir.tell(4, "assigned", 7, data={"epoch": 2, "committed": 7})
    heir.consumed(5, 7)
    heir.arranged(5.1, 7, ["3:7:0"], "acme")
    heir.ran(5.3, "3:7:0", 1)
    heir.delivered(6.5, "3:7:0", "results")
    heir.fate(6.6, 7)
    heir.tell(7.6, "committed", 8, data={"epoch": 2})
    other = Story(make_run(cluster="fast", worker="fast-1"))
    other.consumed(1, 7)
    other.fate(1.2, 7, "filtered")


def test_a_trace_is_the_same_where_rows_and_runs_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    two_lives()
    asked = Place(topic=TOPIC, partition=3, offset=8)
    make_run(worker="worker-3")
    skipper = Story(make_run(worker="worker-1"))
    skipper.tell(9, "skipped", 10, data={"epoch": 3, "committed": 8, "position": 10})
    plain = trace(PLACE), trace(asked)
    monkeypatch.setattr(reading, "FEW_ROWS", 0)
    monkeypatch.setattr(reading, "MOST_LISTED", 0)
    for one, other in zip(plain, (trace(PLACE), trace(asked)), strict=True):
        assert [event.pk for event in one.events] == [event.pk for event in other.events]
        assert one.spans() == other.spans()
    assert [mark.kind for mark in plain[1].marks] == ["skipped"]
    assert "committed" in [mark.kind for mark in plain[0].marks]


def test_a_commit_that_came_late_is_found() -> None:
    story = Story(make_run())
    story.consumed(0, 7)
    story.fate(1, 7)
    story.tell(90_000, "committed", 8, data={"epoch": 1})
    found = trace(PLACE)
    assert [mark.kind for mark in found.marks] == ["committed"]
    assert [span.end for span in by_kind(found.lives[0], "gap")] == [at(90_000)]


def by_kind(life: Life, kind: str) -> list[Span]:
    return [span for span in life.spans if span.kind == kind]


def test_a_message_over_two_workers_and_two_clusters() -> None:
    two_lives()
    with CaptureQueriesContext(
        connection,
    ) as asked:
        found = trace(PLACE)
    assert len(asked) <= MAX_QUERIES
    workers = [found.name_of(life.run).worker for life in found.lives]
    assert workers == ["worker-1", "fast-1", "worker-2"]
    first, filtered, heir = found.lives
    assert (first.whole.end, first.whole.note) == (at(2), "cut short: revoked, rebalance")
    assert (filtered.whole.state, filtered.whole.note) == ("waiting", "filtered")
    assert heir.whole.state == "completed"
    (attempt,) = by_kind(first, "attempt")
    assert (attempt.state, attempt.note, attempt.start, attempt.end) == (
        "failed", "timeout", at(0.3), at(1.3),
    )  # fmt: skip
    assert [mark.kind for mark in found.marks] == ["revoked", "assigned", "committed"]
    assert found.notes == ["fast: not committed yet"]
    assert found.end == at(7.6)


def test_each_span_hangs_under_what_caused_it() -> None:
    two_lives()
    heir = trace(PLACE).lives[-1]
    names = {span.id: span.kind for span in heir.spans}
    parents = {span.kind: names.get(span.parent or "") for span in heir.spans if span.kind != "gap"}
    assert parents == {
        "message": None,
        "arranged": "message",
        "attempt": "arranged",
        "collected": "attempt",
        "delivered": "collected",
    }


def test_times_without_work_are_labelled() -> None:
    two_lives()
    first, _, heir = trace(PLACE).lives
    gaps = {span.name: (span.start, span.end) for span in by_kind(heir, "gap")}
    assert gaps["from worker-1 to worker-2"] == (at(2), at(5))
    assert gaps["waits for a slot"] == (at(5.2), at(5.3))
    assert gaps["waits in the lane of results"] == (at(6.47), at(6.49))
    assert gaps["waits for the commit"] == (at(6.6), at(7.6))
    retries = {span.name: span.state for span in by_kind(first, "gap")}
    assert retries["waits to run again"] == "retrying"


def test_a_task_of_several_messages_is_in_the_trace_of_each() -> None:
    story, both = Story(make_run()), f"3:6:0~{'0a' * 16}"
    for offset in (6, 7):
        story.consumed(0, offset)
        story.arranged(0.1, offset, [both], "both")
    story.ran(0.2, both, 1, source_offsets=[6, 7], failure="exit", exit_code=1)
    story.tell(1.3, "task_replaced", 6, task_id=both, attempt=1, data={"task_ids": [f"{both}.r1"]})
    story.ran(1.4, f"{both}.r1", 1, source_offsets=[6, 7])
    story.ran(0.2, "3:6:0", 1)
    (life,) = trace(PLACE).lives
    attempts = by_kind(life, "attempt")
    assert [span.task_id for span in attempts] == [both, f"{both}.r1"]
    assert attempts[1].parent == attempts[0].id
    detail = task_detail("main", both)
    assert detail is not None
    assert list(detail.source_offsets) == [6, 7]
    assert [place.offset for place in find(f"{both}.r1").places] == [6]
    CancelArguments(task_id=f"{both}.r1", decision="skip")


def test_a_task_without_rows_is_named_and_not_running() -> None:
    story = Story(make_run())
    story.consumed(0, 7)
    story.arranged(0.1, 7, ["3:7:0"], "quick")
    story.fate(0.3, 7)
    (attempt,) = by_kind(trace(PLACE).lives[0], "attempt")
    assert (attempt.state, attempt.end) == ("unknown", at(0.3))
    assert "event_min_duration_ms" in attempt.note


def test_what_runs_is_open_and_what_died_is_not() -> None:
    for worker, state in (("a", "ready"), ("b", "lost")):
        story = Story(make_run(worker=worker, beat__state=state))
        story.consumed(0, 7)
        story.arranged(0.1, 7, ["3:7:0"], "x")
        story.tell(0.2, "task_started", 7, task_id="3:7:0", attempt=1, queue_ms=1.0)
    found = trace(PLACE)
    states = {found.name_of(life.run).worker: life.whole.end for life in found.lives}
    assert states == {"a": None, "b": at(0.2)}
    assert found.open_until is not None
    assert found.end == found.open_until


def test_a_letter_and_its_replay() -> None:
    story = Story(make_run())
    story.consumed(0, 7)
    letter = {"letter_topic": "dlq", "letter_partition": 1, "letter_offset": 5, "stage": "parse"}
    story.tell(0.1, "dead_lettered", 7, data=letter)
    story.fate(0.2, 7, "dead_lettered")
    control = make_run(cluster="_control", worker="controller")
    make_events(
        1, run=control.id, ts=at(60), kind="replayed", topic="dlq", partition=1, offset=5,
        data={"target": TOPIC, "actor": "mara"},
    )  # fmt: skip
    found = trace(PLACE)
    assert found.lives[0].whole.state == "dead_lettered"
    assert [mark.kind for mark in found.marks] == ["replayed"]
    assert "mara" in found.marks[0].note


def test_a_trace_is_bounded() -> None:
    run = make_run()
    make_events(MAX_EVENTS + 5, run=run.id, kind="consumed", topic=TOPIC, partition=3, offset=7)
    found = trace(PLACE)
    assert found.is_cut
    assert len(found.events) == MAX_EVENTS


@pytest.mark.parametrize(
    "question", ["3:7", f"{TOPIC}/3:7", "3:7:0", "message=acme", "acme", "who=mara", " 3:7 "]
)
def test_a_message_is_found_by_place_task_or_label(question: str) -> None:
    two_lives()
    assert find(question).places == (PLACE,)


@pytest.mark.parametrize("question", ["3:8", "9:9:9", "who=nobody", "acm", "%", "\0x"])
def test_what_fits_nothing_finds_nothing(question: str) -> None:
    two_lives()
    assert find(question).places == ()


def test_a_label_is_looked_for_in_one_window_after_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(queries, "WINDOW_ROWS", 4)
    story = Story(make_run())
    for offset in range(10):
        story.arranged(offset, offset, [], "odd" if offset % 2 else "even")
    found = find("message=even")
    assert [place.offset for place in found.places] == [8, 6]
    assert found.looked_to == at(5)
    further = search(Search(question="message=even", older=found.older))
    assert [place.offset for place in further.places] == [4, 2, 0]
    last = search(Search(question="message=even", older=further.older))
    assert (last.places, last.older) == ((), None)
    monkeypatch.setattr(lookup, "MAX_PLACES", 1)
    found = find("odd")
    assert [place.offset for place in found.places] == [9]
    further = search(Search(question="odd", older=found.older))
    assert [place.offset for place in further.places] == [7]


@pytest.mark.parametrize(
    ("asked", "offsets"),
    [
        (Search(state="dead_lettered"), [3]),
        (Search(state="delivered"), [2, 1]),
        (Search(state="failed"), [3]),
        (Search(state="delivered", slower_ms=2000.0), [2]),
        (Search(question="message=acme", state="dead_lettered"), [3]),
        (Search(question="message=acme", slower_ms=2000.0, state="delivered"), [2]),
        (Search(since=at(0), until=at(102)), [1]),
        (Search(since=at(0), cluster="main", worker="nobody"), []),
    ],
)
def test_messages_are_found_by_what_became_of_them(asked: Search, offsets: list[int]) -> None:
    story = Story(make_run(worker="worker-1"))
    for offset in (1, 2, 3):
        fails = {"failure": "exit", "exit_code": 3} if offset == 3 else {}
        story.consumed(100 * offset, offset)
        story.arranged(100 * offset + 0.1, offset, [f"3:{offset}:0"], "acme")
        story.ran(100 * offset + 0.2, f"3:{offset}:0", 0.5, **fails)
        fate = "dead_lettered" if offset == 3 else "delivered"
        story.tell(
            100 * offset + offset, "message_completed", offset, duration_ms=offset * 1000.0,
            data={"fate": fate, "reason": ""},
        )  # fmt: skip
    found = search(asked)
    assert [match.place.offset for match in found.matches] == offsets
    for match in found.matches:
        assert match.labels == {"message": "acme"}
        assert match.fate == ("dead_lettered" if match.place.offset == 3 else "delivered")
        assert match.duration_ms == match.place.offset * 1000.0


@pytest.mark.parametrize("question", ["", "  ", "99999999999:1", f"1:{2**63}"])
def test_what_cannot_be_meant_is_refused(question: str) -> None:
    with pytest.raises(NotUnderstood):
        find(question)


def test_places_beyond_the_columns_are_empty() -> None:
    assert trace(Place(topic=TOPIC, partition=2**40, offset=2**70)).events == []
    assert trace(Place(topic="a\0", partition=1, offset=1)).events == []
    assert task_detail("main", "3:7:\0") is None


def test_a_message_that_an_operator_skipped_is_found_by_the_event_of_all_of_them() -> None:
    run = Story(make_run(worker="worker-1"))
    data = {"committed": 5, "offsets": 4, "epoch": 2, "request": "r"}
    run.tell(1, "skipped", 9, data=data)
    for offset, count in ((4, 0), (5, 1), (7, 1), (8, 1), (9, 0)):
        found = trace(Place(topic=TOPIC, partition=3, offset=offset))
        assert [mark.kind for mark in found.marks] == ["skipped"] * count, offset
        assert found.lives == []
    run.consumed(3, 7)
    run.fate(4, 7)
    again = trace(Place(topic=TOPIC, partition=3, offset=7))
    assert [mark.kind for mark in again.marks] == ["skipped"]
    assert len(again.lives) == 1


def test_the_lives_of_a_deferred_message_stand_in_the_trace_of_its_first_place() -> None:
    first_run, second_run = make_run(worker="worker-1"), make_run(worker="worker-2")
    first, second = Story(first_run), Story(second_run, topic="retries", partition=0)
    again = Story(first_run, topic="retries", partition=0)
    first.consumed(0, 7)
    first.arranged(0.1, 7, ["3:7:0", "3:7:1"], "acme")
    first.ran(0.3, "3:7:0", 1, failure="exit", exit_code=1)
    first.tell(1.4, "deferred", 7, data=deferred_to(4, ["3:7:0"], 60))
    first.fate(1.5, 7, "deferred")
    other = Story(second_run, topic="retries", partition=0)
    other.consumed(2, 3)
    second._seq = other._seq
    second.consumed(2.1, 4)
    second.arranged(60.1, 4, ["3:7:0"], "acme")
    same = {"task_id": "3:7:0", "attempt": 2, "slot": 1}
    second.tell(60.2, "task_started", 4, data={"source_offsets": [4]}, **same)
    second.tell(61.0, "deferred", 4, data=deferred_to(9, ["3:7:0"], 120))
    second.fate(61.1, 4, "deferred")
    again._seq = first._seq
    again.consumed(62, 9)
    again.fate(121, 9, "dead_lettered")
    first._seq = again._seq
    first.tell(120.9, "dead_lettered", 7, task_id="3:7:0", data={"stage": "task", "reason": "no"})

    found = trace(PLACE)
    lives = [(found.name_of(one.run).worker, one.whole.note) for one in found.lives]
    assert lives == [
        ("worker-1", "deferred"), ("worker-2", "deferred"), ("worker-1", "dead_lettered"),
    ]  # fmt: skip
    first_life, second_life, last = found.lives
    assert [span.name for span in by_kind(first_life, "deferred")] == ["retry topic retries 0:4"]
    assert by_kind(first_life, "deferred")[0].end == at(60)
    assert [span.facts["attempt"] for span in by_kind(second_life, "attempt")] == [2]
    assert len(by_kind(last, "dead_lettered")) == 1
    assert not by_kind(first_life, "dead_lettered")
    assert {row.offset for row in found.events if row.topic == "retries"} == {4, 9}


def deferred_to(offset: int, task_ids: list[str], due: float) -> dict[str, Any]:
    return {
        "retry_topic": "retries", "retry_partition": 0, "retry_offset": offset,
        "due_at": at(due).timestamp(), "task_ids": task_ids, "origin": f"{TOPIC}/3/7",
    }  # fmt: skip


def test_a_task_of_a_deferred_message_is_one_task_over_all_lives() -> None:
    run = make_run(worker="worker-1", config={"retry": {"topic": "retries"}})
    first, second = Story(run), Story(run, topic="retries", partition=0)
    first.ran(0.3, "3:7:0", 1, failure="exit", exit_code=1)
    first.tell(1.4, "deferred", 7, data=deferred_to(4, ["3:7:0"], 60))
    second._seq = first._seq
    same = {"task_id": "3:7:0", "attempt": 2, "slot": 1}
    second.tell(60.2, "task_started", 4, data={"source_offsets": [4]}, **same)
    stranger = Story(run, topic="old", partition=3)
    stranger._seq = second._seq
    stranger.ran(-10, "3:7:0", 1)
    for topic in ("", TOPIC, "retries"):
        found = task_detail("main", "3:7:0", topic)
        assert found is not None
        assert [one.attempt for one in found.executions] == [1, 2]
        assert found.place == PLACE
