"""Cluster ``main``: what a search asks for, delivers, and does on failure."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from domain.failure import DeliveryError
from domain.payload import (
    FilePayload,
    HttpPayload,
    KafkaPayload,
    MongoPayload,
    Payload,
    PostgresPayload,
    RedisPayload,
    Upsert,
)
from domain.task import Task
from integration.handlers.main import SearchHandler, SearchRequest, SearchSettings
from tests.support.results import ended_well
from workers.handler import DeadLetter, FailureKind, Message, Pending, Retry, TaskFailure

REQUEST = SearchRequest(request_id="r1", pattern="def", file_path="a.py", repeat=2)


def handler() -> SearchHandler:
    return SearchHandler(SearchSettings(fail_chance=0.05), max_retries=3)


def failure(kind: FailureKind, attempt: int = 1, stderr: bytes = b"") -> TaskFailure:
    result = ended_well(REQUEST, b"", stderr)
    return TaskFailure(task=Task(), kind=kind, detail="why", attempt=attempt, result=result)


def test_a_message_becomes_one_search() -> None:
    message = Message(
        topic="t",
        partition=0,
        offset=5,
        key=b"r1",
        value=b"",
        headers=(),
        timestamp=0,
        payload=REQUEST,
    )
    (task,) = asyncio.run(handler().arrange([message], Pending(tasks={})))
    assert task.args == ("2", "def", "a.py", "--fail=0.05")
    assert task.labels == {"request_id": "r1", "pattern": "def"}
    assert task.env == {"REQUEST_ID": "r1"}
    assert task.source_offsets == (5,)


def collected(matches: int) -> dict[str, Payload]:
    payloads = asyncio.run(handler().collect(ended_well(REQUEST, b"line\n" * matches)))
    return {payload.sink: payload for payload in payloads}


def test_the_match_count_goes_everywhere() -> None:
    found = collected(51)
    kafka, row = found["results"], found["metrics"]
    document, summary = found["archive"], found["summaries"]
    hook, line = found["webhook"], found["files"]
    assert isinstance(kafka, KafkaPayload)
    assert isinstance(row, PostgresPayload)
    assert isinstance(document, MongoPayload)
    assert isinstance(summary, RedisPayload)
    assert isinstance(hook, HttpPayload)
    assert isinstance(line, FilePayload)
    assert row.on_conflict == Upsert(keys=("request_id",))
    assert document.op == "upsert"
    assert (summary.key, summary.ttl_seconds) == ("drakkar:search:r1", 3600)
    assert line.path == "high-match-results.jsonl"
    stored_by_all: list[Any] = [
        kafka.value,
        row.row,
        document.document,
        summary.value,
        hook.json,
        line.record,
    ]
    for stored in stored_by_all:
        assert stored["match_count"] == 51
        assert stored["request_id"] == "r1"


@pytest.mark.parametrize(
    ("matches", "more"),
    [
        (0, set()),
        (20, set()),
        (21, {"webhook"}),
        (50, {"webhook"}),
        (51, {"webhook", "files"}),
    ],
)
def test_webhook_and_file_get_what_is_over_their_threshold(matches: int, more: set[str]) -> None:
    assert set(collected(matches)) == {"results", "metrics", "archive", "summaries"} | more


@pytest.mark.parametrize(
    ("kind", "transient", "attempt", "decision"),
    [
        ("postgres", True, 99, Retry),
        ("http", True, 99, Retry),
        ("http", False, 3, Retry),
        ("http", False, 4, DeadLetter),
        ("redis", False, 1, Retry),
        ("redis", False, 4, DeadLetter),
        ("mongo", True, 99, Retry),
        ("mongo", False, 1, DeadLetter),
        ("postgres", False, 1, DeadLetter),
        ("file", False, 1, DeadLetter),
    ],
)
def test_some_receivers_are_asked_again(
    kind: str, transient: bool, attempt: int, decision: type
) -> None:
    error = DeliveryError(
        sink="s", kind=kind, transient=transient, attempt=attempt, payloads=[], detail="why"
    )
    assert isinstance(asyncio.run(handler().on_delivery_error(error)), decision)


@pytest.mark.parametrize(("attempt", "kind"), [(1, Retry), (3, Retry), (4, DeadLetter)])
def test_simulated_failures_are_tried_again(attempt: int, kind: type) -> None:
    simulated = failure(FailureKind.EXIT, attempt, b"SIMULATED FAILURE at iteration 2/2")
    assert isinstance(asyncio.run(handler().on_error(simulated)), kind)


def test_a_timeout_is_dead_lettered_at_once() -> None:
    decision = asyncio.run(handler().on_error(failure(FailureKind.TIMEOUT)))
    assert decision == DeadLetter(reason="timed out: why")
