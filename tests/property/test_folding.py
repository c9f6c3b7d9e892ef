"""One row a message: whatever is told in whatever order, folding and expanding changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any
from uuid import UUID

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.events import (
    COLUMNS,
    KINDS,
    Arranged,
    Committed,
    Consumed,
    Event,
    Lost,
    MessageCompleted,
    MessageEvent,
    PartitionEvent,
    PeriodicRun,
    TaskCompleted,
    TaskStarted,
)
from domain.letter import LetterContent
from domain.parking import ParkingCause
from recorder import models
from recorder.config import RecorderConfig
from recorder.folding import HELD_SECONDS, Group, grouped
from recorder.message_row import (
    CODES,
    MOST_STEPS,
    SPAN,
    STEPS,
    Unfoldable,
    count_of,
    expand,
    fold,
    kinds_in,
)
from recorder.rows import JSON_COLUMNS, Row, to_row
from recorder.spans import lives_of

CONFIG = RecorderConfig()
RUN = UUID(int=7)
NOW = 1_790_000_000.0
CONTENT = LetterContent(**dict.fromkeys((f.name for f in fields(LetterContent)), None))  # type: ignore[arg-type]
texts = st.text(max_size=8) | st.sampled_from(
    ["delivered", "c/t/0/5/9", "\t", "", "1:5:0", "a\0", "\ud800", "x" * 300, "a:b", '"']
)
small = st.integers(0, 9)
BY_NAME: dict[str, st.SearchStrategy[Any]] = {
    "topic": st.sampled_from(["t", "u"]),
    "partition": st.integers(0, 1),
    "offset": st.integers(5, 6),
    "task_id": st.sampled_from([None, "0:5:0", "1:6:0", "1:6:1", "0:6:0.r1", "0:5:2~" + "a" * 32]),
    "attempt": st.sampled_from([1, 1, 1, 1, 2]),
    "exit_code": st.sampled_from([0, 0, 0, None, 1]),
    "fate": st.sampled_from(["delivered", "delivered", "filtered", "skipped"]),
    "reason": st.sampled_from(["", "", "", "why"]),
    "content": st.just(CONTENT),
    "cause": st.sampled_from(ParkingCause),
}
BY_TYPE: dict[str, st.SearchStrategy[Any]] = {
    "str": texts,
    "str | None": st.none() | texts,
    "int": small | st.integers(-(2**31), 2**31 - 1),
    "int | None": st.none() | small,
    "float | None": st.none() | st.floats(0, 2000),
    "float": st.floats(0, 2000) | st.just(float("nan")),
    "bool": st.booleans(),
    "bytes": st.binary(max_size=5),
    "bytes | None": st.none() | st.binary(max_size=5),
    "Sequence[Any]": st.just([]),
    "Sequence[str]": st.lists(texts, max_size=3),
    "Sequence[int]": st.lists(st.integers(5, 6), min_size=1, max_size=2),
    "Sequence[Sequence[int]]": st.lists(st.tuples(small, small, small), max_size=2),
    "Sequence[Mapping[str, str | None]]": st.lists(
        st.dictionaries(texts, st.none() | texts, max_size=2), max_size=2
    ),
    "Mapping[str, str]": st.dictionaries(texts, texts, max_size=3),
    "Mapping[str, Any] | None": st.none()
    | st.fixed_dictionaries({"progress": st.floats(0, 1), "note": texts, "invalid_lines": small}),
    "Mapping[str, int]": st.dictionaries(texts, small, max_size=3),
    "tuple[str, ...] | None": st.none() | st.tuples(texts),
    "tuple[int, ...] | None": st.none() | st.tuples(small),
}
times = st.floats(0, 0.2) | st.floats(0, 3)
likely = st.sampled_from([*CODES] * 6 + [*KINDS])


@st.composite
def told(draw: st.DrawFn) -> list[Event]:
    """Events of a few messages of a few partitions, more often usual than not."""
    at, events = NOW, []
    for name in draw(st.lists(likely, max_size=30)):
        at += draw(times)
        kind = KINDS[name].event
        values: dict[str, Any] = {"at": at}
        for each in fields(kind):
            if each.name != "at":
                known = each.name in BY_NAME
                values[each.name] = draw(BY_NAME[each.name] if known else BY_TYPE[str(each.type)])
        events.append(kind(**values))
    return events


def in_order(value: Any) -> Any:
    """JSON with the names of its objects in the order of Postgres."""
    if isinstance(value, list):
        return [in_order(each) for each in value]
    if isinstance(value, dict):
        names = sorted(value, key=lambda name: (len(name.encode()), name.encode()))
        return {name: in_order(value[name]) for name in names}
    return value


def stored(row: Row) -> models.Event:
    """The row as Postgres gives it back."""
    values = {name: value for name, value in row.items() if name != "content"}
    for name in JSON_COLUMNS & values.keys():
        values[name] = in_order(orjson.loads(values[name]))
    return models.Event(id=row["seq"], run=RUN, **values)


def rows_of(groups: Sequence[Group], *, is_folded: bool) -> list[Row]:
    """The rows of groups, as the recorder makes them."""
    rows: list[Row] = []
    seq = 0
    for group in groups:
        if is_folded and group.is_usual and len(group.events) > 1:
            try:
                rows.append(fold(group.events, seq + 1))
                seq += len(group.events)
                continue
            except Unfoldable:
                pass
        for event in group.events:
            seq += 1
            rows.append(to_row(event, seq, CONFIG))
    return rows


def columns(event: models.Event) -> dict[str, Any]:
    return {name: getattr(event, name) for name in ("ts", "run", "seq", "kind", *COLUMNS, "data")}


@given(told())
def test_expanding_what_was_folded_gives_every_event_as_it_was(events: list[Event]) -> None:
    groups = grouped(events, CONFIG.output_min_duration_ms)
    plain = [columns(stored(row)) for row in rows_of(groups, is_folded=False)]
    folded = rows_of(groups, is_folded=True)
    found = [each for row in folded for each in expand(stored(row))]
    assert repr([columns(each) for each in found]) == repr(plain)
    assert len({each.pk for each in found}) == len(found)
    for row in folded:
        steps = expand(stored(row))
        assert kinds_in(row) == [each.kind for each in steps]
        assert count_of(row) == len(steps)
        assert max(each.ts for each in steps) == row["ts"]
        assert max(each.ts for each in steps) - min(each.ts for each in steps) <= SPAN
        assert steps[-1].seq == row["seq"]


@given(told())
def test_what_is_unusual_keeps_rows_of_its_own(events: list[Event]) -> None:
    groups = grouped(events, CONFIG.output_min_duration_ms)
    assert sorted(map(id, events)) == sorted(id(e) for group in groups for e in group.events)
    for group in groups:
        if not group.is_usual:
            continue
        assert len(group.events) <= MOST_STEPS
        for event in group.events:
            assert event.kind in CODES
            assert getattr(event, "attempt", 1) == 1
            assert getattr(event, "exit_code", 0) in (0, None)
            assert not isinstance(event, TaskCompleted) or event.duration_ms < 500
            assert getattr(event, "fate", "delivered") in ("delivered", "filtered")


@given(told())
def test_events_of_a_message_and_of_its_partition_stay_in_order(events: list[Event]) -> None:
    groups = grouped(events, CONFIG.output_min_duration_ms)
    before = {id(event): number for number, event in enumerate(events)}
    after = [event for group in groups for event in group.events]
    for number, event in enumerate(after):
        for later in after[number + 1 :]:
            if _is_bound(event, later):
                assert before[id(event)] < before[id(later)]


def _is_bound(event: Event, other: Event) -> bool:
    """Whether the order of two events has a meaning."""
    if isinstance(event, Committed | PeriodicRun) or isinstance(other, Committed | PeriodicRun):
        return False
    if isinstance(event, MessageEvent) and isinstance(other, MessageEvent):
        return _message(event) == _message(other)
    places = [_message(each)[:2] for each in (event, other) if _is_placed(each)]
    return len({*places}) < 2


def _is_placed(event: Event) -> bool:
    return isinstance(event, MessageEvent | PartitionEvent)


def _message(event: Event) -> tuple[Any, ...]:
    return tuple(getattr(event, name, None) for name in ("topic", "partition", "offset"))


def handed_over(offset: int = 5, at: float = NOW) -> list[Event]:
    """A message that waits for its turn."""
    place: dict[str, Any] = {"topic": "t", "partition": 1, "offset": offset}
    return [
        Consumed(at=at, **place, timestamp=1, size_bytes=1),
        Arranged(at=at, **place, task_ids=["1:5:0"], labels={}, duration_ms=1.0, batch_messages=1),
    ]


def test_the_task_of_several_messages_runs_after_each_was_arranged() -> None:
    start = TaskStarted(
        at=NOW + 0.1, topic="t", partition=1, offset=5, task_id="1:5:0", attempt=1, slot=0,
        queue_ms=0.0, labels={}, args=[], source_offsets=[5, 6],
    )  # fmt: skip
    groups = grouped([*handed_over(), *handed_over(offset=6), start], slow_ms=500)
    events = [each for row in rows_of(groups, is_folded=True) for each in expand(stored(row))]
    own = [each for each in events if each.offset == 6 or each.task_id]
    (life,) = lives_of(own)
    assert [span.kind for span in life.spans] == ["message", "arranged", "attempt"]
    assert life.spans[-1].parent == life.spans[1].id


def test_what_was_held_stays_before_what_was_told_after_the_clock_stepped_back() -> None:
    first, again = handed_over()[0], handed_over(at=NOW - 1.0)[1]
    held = grouped([first, again], slow_ms=500)
    assert [group.waits(NOW) for group in held] == [False, True]


@pytest.mark.parametrize(
    ("seconds", "is_held"),
    [(0, True), (HELD_SECONDS - 0.1, True), (HELD_SECONDS, False), (-1, False)],
)
def test_what_was_told_of_a_message_that_waits_is_held_a_while(
    seconds: float, is_held: bool
) -> None:
    (group,) = grouped(handed_over(), slow_ms=500)
    assert group.waits(NOW + seconds) == is_held


def test_nothing_is_held_that_ran_or_whose_partition_went() -> None:
    lost = Lost(at=NOW, topic="t", partition=1, epoch=1, dropped_messages=1)
    other = Lost(at=NOW, topic="t", partition=2, epoch=1, dropped_messages=1)
    end = MessageCompleted(
        at=NOW, topic="t", partition=1, offset=5, fate="filtered", duration_ms=1.0, reason=""
    )
    assert grouped([*handed_over(), other], slow_ms=500)[0].waits(NOW)
    assert not grouped([*handed_over(), lost], slow_ms=500)[0].waits(NOW)
    assert not grouped([*handed_over(), end], slow_ms=500)[0].waits(NOW)


@pytest.mark.parametrize("step", STEPS, ids=lambda step: str(step.kind))
def test_a_step_holds_every_field_of_its_kind(step: Any) -> None:
    held = {*step.fields, *step.fixed, "topic", "partition", "offset"}
    assert held == {*KINDS[step.kind].columns, *KINDS[step.kind].data}
