"""Why a lag grows and what blocks a commit, told apart by figures."""

from __future__ import annotations

from typing import Any

import pytest

from domain.block_cause import BlockCause, BlockFigures, block_of
from domain.lag_cause import LagCause, LagFigures, diagnose

FULL: dict[str, Any] = {"slots": 8, "busy": 8, "waiting": 412}
FREE: dict[str, Any] = {"slots": 8, "busy": 2, "waiting": 0}


@pytest.mark.parametrize(
    ("figures", "cause", "evidence"),
    [
        ({"paused": ["the cluster, by mara"]}, LagCause.INTAKE_PAUSED, "the cluster, by mara"),
        (
            {"lag": 100, "suspects": ["partition 3"], "suspect_lag": 60},
            LagCause.CRASH_GUARD,
            "partition 3, where 60 messages wait",
        ),
        (
            {"lag": 100, "parked": ["partition 3 (program)"], "parked_lag": None},
            LagCause.PARKED,
            "partition 3 (program)",
        ),
        ({"sinks_away": ["sink out"]} | FULL, LagCause.SINK_AWAY, "sink out"),
        (
            {"workers": 2, "workers_before": 3},
            LagCause.FEWER_WORKERS,
            "2 workers, 3 an hour ago",
        ),
        (
            {"waiting_for_key": 90, "waiting_for_group": 0} | FREE,
            LagCause.BOUND,
            "90 tasks wait for their key while 2 of 8 slots are busy",
        ),
        (
            {"p50_ms": 3000.0, "p50_ms_before": 400.0} | FULL,
            LagCause.SLOW_PROGRAM,
            "half of the tasks take 3 s or more, 400 ms in the hour before;"
            " 8 of 8 slots busy, 412 tasks wait",
        ),
        (
            {"input_per_second": 900.0, "input_per_second_before": 300.0},
            LagCause.MORE_INPUT,
            "900 messages come a second, 300 in the hour before",
        ),
        (FULL, LagCause.POOL_FULL, "8 of 8 slots busy, 412 tasks wait"),
        (
            {"sink_queue": ("out", 5000)} | FREE,
            LagCause.SINK_SLOW,
            "5,000 payloads wait for out, 2 of 8 slots are busy",
        ),
        (
            {"lag": 1000, "partitions": 12, "hottest": ("partition 7 of t", 900)},
            LagCause.HOT_PARTITION,
            "90% of what waits is in partition 7 of t, one of 12 partitions",
        ),
        (
            {"lag": 1000, "deferred": 600},
            LagCause.DEFERRED,
            "600 of the messages that wait are deferred retries that are not due",
        ),
        (FREE, LagCause.UNCLEAR, "2 of 8 slots busy"),
        ({}, LagCause.UNCLEAR, "how busy its slots are is unknown"),
    ],
    ids=lambda value: str(value) if isinstance(value, LagCause) else "",
)
def test_the_first_cause_of_a_lag_and_its_evidence(
    figures: dict[str, Any], cause: LagCause, evidence: str
) -> None:
    first = diagnose(LagFigures(**figures))[0]
    assert (first.cause, first.evidence) == (cause, evidence)


def test_causes_are_told_in_the_order_in_which_they_are_mended() -> None:
    figures = LagFigures(
        **FULL, lag=100, partitions=3, hottest=("p", 90), paused=["worker w"], sinks_away=["out"]
    )
    assert [each.cause for each in diagnose(figures)] == [
        LagCause.INTAKE_PAUSED,
        LagCause.SINK_AWAY,
        LagCause.POOL_FULL,
        LagCause.HOT_PARTITION,
    ]


@pytest.mark.parametrize(
    "figures",
    [
        {"p50_ms": 500.0, "p50_ms_before": 400.0},
        {"p50_ms": 500.0},
        {"input_per_second": 350.0, "input_per_second_before": 300.0},
        {"workers": 3, "workers_before": 3},
        {"slots": 8, "busy": 8, "waiting": 0},
        {"slots": 8, "busy": 8},
        {"lag": 1000, "partitions": 2, "hottest": ("p", 900)},
        {"lag": 1000, "suspects": ["p"], "suspect_lag": 10},
        {"waiting_for_key": 90, "slots": 8, "busy": 8},
    ],
)
def test_what_is_as_usual_or_unknown_is_no_cause(figures: dict[str, Any]) -> None:
    assert [each.cause for each in diagnose(LagFigures(**figures))] == [LagCause.UNCLEAR]


@pytest.mark.parametrize(
    ("figures", "cause", "title", "words"),
    [
        (
            {"running_seconds": 700.0, "attempt": 2, "progress": 0.4, "note": "page 8"},
            BlockCause.LONG_TASK,
            "commit blocked by",
            "Its program runs for 12 min, attempt 2, 40% done: page 8.",
        ),
        (
            {"blocked_seconds": 142.0, "running_seconds": 28.0, "attempt": 1} | FULL,
            BlockCause.POOL_FULL,
            "pool full, commit waits for",
            "It waited 2 min for a slot and runs for 28 s: every slot is busy (8 of 8, 412 wait).",
        ),
        (
            {"blocked_seconds": 142.0, "running_seconds": 28.0, "attempt": 2} | FULL,
            BlockCause.LONG_TASK,
            "commit blocked by",
            "Its program runs for 28 s, attempt 2.",
        ),
        (
            {"blocked_seconds": 142.0, "running_seconds": 28.0, "attempt": 1} | FREE,
            BlockCause.LONG_TASK,
            "commit blocked by",
            "Its program runs for 28 s.",
        ),
        ({"waits_for": "key k"}, BlockCause.BOUND, "commit blocked by", "It waits for key k."),
        (
            {"is_waiting": True} | FULL,
            BlockCause.POOL_FULL,
            "pool full, commit waits for",
            "Every slot is busy (8 of 8, 412 wait): it has none yet.",
        ),
        (
            {"is_waiting": True, "sinks_away": ["out"]} | FREE,
            BlockCause.SINK_AWAY,
            "sink away, commit waits for",
            "Its results may wait for out, whose breaker is open.",
        ),
        (
            {"is_waiting": True} | FREE,
            BlockCause.UNCLEAR,
            "commit blocked by",
            "Its program does not run now: a retry or a delivery waits; its page says which.",
        ),
        ({}, BlockCause.UNCLEAR, "commit blocked by", "Whether its program runs is unknown."),
        (FULL, BlockCause.UNCLEAR, "commit blocked by", "Whether its program runs is unknown."),
    ],
    ids=lambda value: str(value) if isinstance(value, BlockCause) else "",
)
def test_what_blocks_a_commit(
    figures: dict[str, Any], cause: BlockCause, title: str, words: str
) -> None:
    found = block_of(BlockFigures(**figures))
    assert (found.cause, found.title, found.sentence) == (cause, title, words)
