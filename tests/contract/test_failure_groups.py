"""Groups of failures in a real PostgreSQL: counted with their events, each once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.db import DataError

from domain.events import Event, TaskFailed
from recorder import writer
from recorder.config import RecorderConfig
from recorder.failures.counting import OTHER, project_failures
from recorder.failures.grouping import MOST_GROUPS, Grouping
from recorder.models import FailureCount, FailureGroup, FailureState
from recorder.projections import in_turn
from recorder.rows import Row, to_row
from recorder.runs import RunDescription
from tests.contract.test_letters_postgres import event as letter_event
from tests.contract.test_letters_postgres import record
from tests.contract.test_recorder_postgres import description

pytestmark = pytest.mark.django_db
CONFIG = RecorderConfig()
AT = datetime(2026, 3, 14, 3, 1, tzinfo=UTC).timestamp()


def failed(offset: int = 7, *, stderr: bytes = b"cannot open /a/1\n", **changes: Any) -> TaskFailed:
    fields: dict[str, Any] = {
        "at": AT + offset,
        "topic": "t",
        "partition": 3,
        "offset": offset,
        "task_id": f"3:{offset}:0",
        "slot": 1,
        "attempt": 1,
        "exit_code": 3,
        "pid": 9,
        "duration_ms": 5.0,
        "queue_ms": 0.0,
        "labels": {"tenant": f"t{offset % 2}"},
        "args": ["x"],
        "stdout": b"",
        "stderr": stderr,
        "stdout_size": 0,
        "stderr_size": len(stderr),
        "started_at": AT,
        "user_cpu_seconds": None,
        "system_cpu_seconds": None,
        "max_rss_bytes": None,
        "failure": "exit",
        "detail": "exit code 3",
    }
    return TaskFailed(**(fields | changes))


def rows_of(events: Sequence[Event], grouping: Grouping | None = None) -> list[Row]:
    grouping = grouping or Grouping("main")
    rows = [to_row(event, seq, CONFIG) for seq, event in enumerate(events, start=1)]
    for event, row in zip(events, rows, strict=True):
        grouping.mark(event, row)
    return rows


@pytest.fixture
def run() -> RunDescription:
    made = description()
    writer.ensure_run(made)
    return made


def test_failures_of_one_cause_are_one_group_with_labels_and_samples(run: RunDescription) -> None:
    events = [
        failed(offset, stderr=f"cannot open /a/{offset}\n".encode()) for offset in range(1, 8)
    ]
    writer.flush(run, rows_of(events), 0, project_failures)
    group = FailureGroup.objects.get()
    assert (group.title, group.kind, group.cluster) == (
        "exit 3: cannot open <path>",
        "exit",
        "main",
    )
    assert (group.count, group.letters, group.state) == (7, 0, FailureState.OPEN)
    assert group.last_seen - group.first_seen == timedelta(seconds=6)
    counted = FailureCount.objects.get()
    assert (counted.run, counted.count) == (run.id, 7)
    assert counted.labels == {"tenant": {"t0": 3, "t1": 4}}
    assert [sample[4] for sample in counted.samples] == [3, 4, 5, 6, 7]


def test_a_flush_done_twice_and_one_that_fails_count_each_failure_once(run: RunDescription) -> None:
    def refuse(_run: RunDescription, _rows: Sequence[Row]) -> None:
        raise DataError("no")

    rows = rows_of([failed(1), failed(2)])
    with pytest.raises(DataError):
        writer.flush(run, rows, 0, in_turn(project_failures, refuse))
    assert not FailureGroup.objects.exists()
    writer.flush(run, rows, 0, project_failures)
    assert writer.flush(run, rows, 0, project_failures) == 2
    assert FailureGroup.objects.get().count == 2
    more = [row | {"seq": row["seq"] + 2} for row in rows]
    writer.flush(run, more, 2, project_failures)
    assert FailureGroup.objects.get().count == FailureCount.objects.get().count == 4


def test_a_letter_belongs_to_the_failure_that_made_it(run: RunDescription) -> None:
    letter = letter_event(record(), task_id="3:7:0", stage="task")
    of_parse = letter_event(record(8), task_id=None, stage="parse", failure="parse", reason="bad")
    rows = rows_of([failed(7), replace(letter, at=AT + 8), replace(of_parse, at=AT + 9)])
    writer.flush(run, rows, 0, project_failures)
    task, parse = FailureGroup.objects.order_by("title")
    assert (task.title, task.count, task.letters) == ("exit 3: cannot open <path>", 1, 1)
    assert (parse.title, parse.count, parse.letters) == ("parse: bad", 1, 1)
    assert rows[0]["data"].startswith(f'{{"group":"{task.pk}",')


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"state": "resolved", "resolved_at": datetime(2026, 3, 14, tzinfo=UTC)}, "open"),
        ({"state": "resolved", "resolved_at": datetime(2026, 3, 15, tzinfo=UTC)}, "resolved"),
        ({"state": "ignored", "ignored_count": 3}, "ignored"),
        ({"state": "ignored", "ignored_count": 2}, "open"),
        ({"state": "ignored", "ignored_until": datetime(2026, 3, 14, tzinfo=UTC)}, "open"),
        ({"state": "acknowledged"}, "acknowledged"),
    ],
    ids=["resolved", "not-yet-stored", "few", "tenfold", "until", "acknowledged"],
)
def test_what_a_person_said_holds_until_it_does_not(
    run: RunDescription, before: dict[str, Any], after: str
) -> None:
    writer.flush(run, rows_of([failed(1)]), 0, project_failures)
    FailureGroup.objects.update(**before)
    writer.flush(run, [row | {"seq": 2} for row in rows_of([failed(2)])], 1, project_failures)
    group = FailureGroup.objects.get()
    assert group.state == after
    is_back = before["state"] == "resolved" and after == "open"
    assert (group.came_back_at is not None) == is_back


def test_what_fails_in_ever_new_ways_stays_bounded(run: RunDescription) -> None:
    words = [
        f"{'abcdefghij'[n % 10]}{'klmnopqrst'[n // 10 % 10]}{'uvwxyzklmn'[n // 100]}"
        for n in range(600)
    ]
    events = [
        failed(n + 1, stderr=word.encode(), labels={f"l{n % 12}": str(n)}, at=AT)
        for n, word in enumerate(dict.fromkeys(words))
    ]
    writer.flush(run, rows_of(events), 0, project_failures)
    assert FailureGroup.objects.count() == MOST_GROUPS + 1
    rest = FailureGroup.objects.get(title="exit: all kinds of words")
    assert rest.count == len(events) - MOST_GROUPS
    labels = FailureCount.objects.get(group=rest.pk).labels
    assert len(labels) == 8
    assert all(len(values) <= 21 for values in labels.values())
    assert OTHER not in labels


def test_runs_count_side_by_side(run: RunDescription) -> None:
    other = replace(run, id=uuid4(), worker="w2")
    writer.ensure_run(other)
    for each in (run, other):
        writer.flush(each, rows_of([failed(1), failed(2, stderr=b"no")]), 0, project_failures)
    assert sorted(FailureGroup.objects.values_list("count", flat=True)) == [2, 2]
    assert FailureCount.objects.count() == 4
