"""What a real worker tells makes a whole trace: nothing is invented by the tests' own rows."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from domain.events import Event, MessageEvent
from recorder.config import RecorderConfig
from recorder.folding import grouped
from recorder.message_row import fold, kinds_in
from recorder.rows import to_row
from recorder.task_detail import task_detail
from recorder.trace import Place, Trace, trace
from recorder.writer import ensure_run, flush
from tests.contract.test_recorder_postgres import description
from tests.support.pipeline import TOPIC, cluster_config, new_cluster, running

pytestmark = pytest.mark.django_db
MOST_ROW_CHARACTERS = 700
"""Of the steps of a message of one task and one sink."""
FLAKY = 'if [ -e "{mark}" ]; then printf fine; else : > "{mark}"; printf broken >&2; exit 3; fi'


def told(script: str, max_retries: int = 3) -> list[Event]:
    """All that a worker tells of one message."""

    async def main() -> list[Event]:
        cluster = new_cluster()
        cluster.produce(TOPIC, 0, json.dumps({"script": script}).encode())
        async with running(cluster, cluster_config(max_retries=max_retries)) as live:
            await live.fates(1)
            assert await live.stop() == 0
            return live.heard.events

    return asyncio.run(main())


def recorded(events: list[Event]) -> Trace:
    run = description(events[0].at)
    ensure_run(run)
    config = RecorderConfig(output_min_duration_ms=0)
    flush(run, [to_row(event, seq, config) for seq, event in enumerate(events, 1)], 0)
    return trace(Place(topic=TOPIC, partition=0, offset=0))


def test_a_message_that_is_retried_and_delivered(tmp_path: Path) -> None:
    found = recorded(told(FLAKY.format(mark=tmp_path / "mark")))
    (life,) = found.lives
    kinds = [(span.kind, span.state) for span in life.spans if span.kind != "gap"]
    assert kinds == [
        ("message", "completed"),
        ("arranged", "completed"),
        ("attempt", "failed"),
        ("attempt", "completed"),
        ("collected", "completed"),
        ("delivered", "completed"),
    ]
    assert {span.name for span in life.spans if span.kind == "gap"} >= {
        "waits to run again", "waits for the commit",
    }  # fmt: skip
    assert "committed" in [mark.kind for mark in found.marks]
    assert found.notes == []
    for span in life.spans:
        assert span.end is not None
        assert found.start <= span.start <= span.end <= found.end
    task = task_detail("main", "0:0:0")
    assert task is not None
    first, second = task.executions
    assert (task.status, first.state, first.exit_code, first.failure) == (
        "completed", "failed", 3, "exit",
    )  # fmt: skip
    assert (first.stderr, second.stdout, second.exit_code) == (b"broken", b"fine", 0)
    assert first.pid != second.pid
    assert second.usage["max_rss_bytes"] > 0


def test_a_message_that_goes_as_usual_is_one_row() -> None:
    events = [event for event in told("printf fine") if isinstance(event, MessageEvent)]
    (group,) = grouped(events, slow_ms=60_000)
    assert group.is_usual
    row = fold(group.events, 1)
    assert kinds_in(row) == [event.kind for event in events]
    assert len(row["data"]) < MOST_ROW_CHARACTERS


def test_a_message_that_is_dead_lettered() -> None:
    found = recorded(told("exit 7", max_retries=0))
    (life,) = found.lives
    assert (life.whole.state, life.whole.note) == ("dead_lettered", "dead_lettered")
    (letter,) = (span for span in life.spans if span.kind == "dead_lettered")
    assert letter.name == "letter dlq 0:0"
    assert life.last("attempt", "0:0:0") is not None
    task = task_detail("main", "0:0:0")
    assert task is not None
    assert task.status == "dead_lettered"
