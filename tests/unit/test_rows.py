"""Events as rows: what becomes of each kind of column."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from domain.events import Collected, TaskCompleted
from recorder.config import RecorderConfig
from recorder.rows import REPLACEMENT, to_row

CONFIG = RecorderConfig(output_min_duration_ms=500, output_max_bytes=4)
ENDED = TaskCompleted(
    at=1_790_000_000.25,
    topic="t" * 300,
    partition=3,
    offset=8,
    task_id="3:8:\0",
    slot=2,
    attempt=1,
    exit_code=0,
    pid=77,
    duration_ms=499.9,
    queue_ms=0.5,
    labels={"k": "v\0"},
    args=("a",),
    stdout=b"",
    stderr=b"errors",
    stdout_size=0,
    stderr_size=6,
    started_at=1_790_000_000.0,
    user_cpu_seconds=0.1,
    system_cpu_seconds=0.2,
    max_rss_bytes=5,
)


def test_columns_are_cleaned_and_cut_and_the_rest_is_data() -> None:
    row = to_row(ENDED, 9, CONFIG)
    assert (row["seq"], row["kind"], row["offset"], row["slot"]) == (9, "task_completed", 8, 2)
    assert row["ts"].timestamp() == ENDED.at
    assert (row["topic"], row["task_id"]) == ("t" * 249, f"3:8:{REPLACEMENT}")
    assert json.loads(row["labels"]) == {"k": f"v{REPLACEMENT}"}
    assert json.loads(row["args"]) == ["a"]
    assert json.loads(row["data"]) == {
        "started_at": 1_790_000_000.0,
        "user_cpu_seconds": 0.1,
        "system_cpu_seconds": 0.2,
        "max_rss_bytes": 5,
        "progress": None,
    }


@pytest.mark.parametrize(("duration_ms", "kept"), [(499.9, None), (500.0, (b"", b"erro"))])
def test_only_the_output_of_slow_successes_is_kept_and_cut(
    duration_ms: float, kept: tuple[bytes, bytes] | None
) -> None:
    row = to_row(replace(ENDED, duration_ms=duration_ms), 1, CONFIG)
    assert (row["stdout"], row["stderr"]) == (kept or (None, None))
    assert (row["stdout_size"], row["stderr_size"]) == (0, 6)


def test_a_text_that_is_not_there_stays_away() -> None:
    event = Collected(
        at=1.0, topic="t", partition=1, offset=1, task_id=None, hook="m", payloads=1,
        duration_ms=1.0,
    )  # fmt: skip
    assert to_row(event, 1, CONFIG)["task_id"] is None
