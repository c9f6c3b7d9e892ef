"""The frames of the live socket: written once, in parts that fit."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import orjson
import pytest

from workers.control_plane.live.payloads import (
    FRAME_BYTES,
    LISTED_EVENTS,
    Events,
    LiveEvent,
    fitting,
    parts_of,
    text_of,
)
from workers.control_plane.live.reading import Batch
from workers.control_plane.live.socket import cursor_of

AT = datetime(2026, 1, 1, tzinfo=UTC)


def an_event(seq: int, text: str = "") -> LiveEvent:
    return LiveEvent(
        at=AT,
        run=f"run-{seq % 2}",
        seq=seq,
        cluster="main",
        worker="worker-1",
        kind="task_started",
        topic="t",
        partition=0,
        offset=seq,
        task_id=f"0:{seq}:0",
        slot=1,
        exit_code=None,
        duration_ms=None,
        queue_ms=None,
        attempt=1,
        sink=None,
        labels={"tenant": text},
        data={},
    )


RUN = "12345678-1234-5678-1234-567812345678"


@pytest.mark.parametrize("seq", ["1" + "0" * 30, "-1", "1e308", "1e999", "null", '"x"'])
def test_a_cursor_that_no_run_reached_is_none_of_ours(seq: str) -> None:
    assert cursor_of(f'{{"{RUN}": {seq}}}') is None
    assert cursor_of(f'{{"{RUN}": 7}}') == {RUN: 7}


def test_no_events_are_one_empty_part() -> None:
    assert list(parts_of([])) == [[]]


def test_a_part_is_written_as_its_events_are() -> None:
    events = [an_event(1), an_event(2, 'a "quoted" é')]
    (part,) = parts_of(events)
    frame = Events(n=1, cursor={"run-1": 1}, events=part)
    assert part == events
    assert orjson.loads(text_of(frame)) == orjson.loads(orjson.dumps(frame))


def test_parts_fit_and_keep_the_order_of_each_run() -> None:
    wide = "\u4e2d" * 300  # three bytes a character
    events = [an_event(seq, wide) for seq in range(1, 2001)]
    parts = list(parts_of(events))
    assert len(parts) > 1
    told = [event for part in parts for event in part]
    assert sorted(told, key=lambda event: event.seq) == events
    for run in ("run-0", "run-1"):
        seqs = [event.seq for event in told if event.run == run]
        assert seqs == sorted(seqs)
    texts = [text_of(Events(n=1, cursor={}, events=part)) for part in parts]
    assert max(len(text.encode()) for text in texts) <= FRAME_BYTES + 10_000


def ended(seq: int, kind: str = "task_completed", took: float = 1.0) -> LiveEvent:
    return replace(an_event(seq), kind=kind, duration_ms=took)


def test_what_fits_is_told_whole() -> None:
    events = [an_event(1), ended(2), ended(3, "committed")]
    assert fitting(events, 3) == events


def test_of_too_many_events_failures_stay_then_the_longest() -> None:
    short = [ended(seq) for seq in range(100)]
    long = [ended(200, took=9.0), ended(201, took=8.0)]
    odd = [ended(300, "task_failed"), ended(301, "assigned")]
    listed = [ended(400 + n, "arranged") for n in range(LISTED_EVENTS + 1)]
    events = [*short, *listed, *odd, an_event(500), *long]
    kept = fitting(events, len(odd) + LISTED_EVENTS + len(long))
    assert kept == [*listed[1:], *odd, *long]
    assert fitting(events, 1) == [odd[1]]


def test_listeners_of_one_choice_share_what_was_made_of_a_batch() -> None:
    batch, made = Batch([], [], {}, has_gap=False), []

    def make() -> str:
        made.append(1)
        return "parts"

    found = [batch.once(("parts", choice), make) for choice in ("main", "main", "fast")]
    assert (found, len(made)) == (["parts"] * 3, 2)
