"""Cluster ``main``: what a search asks for, delivers, and does on failure."""

from __future__ import annotations

import asyncio

import pytest

from domain.payload import KafkaPayload, PostgresPayload, Upsert
from domain.task import Task, TaskResult, Usage
from integration.handlers.main import SearchHandler, SearchRequest, SearchSettings
from workers.handler import DeadLetter, FailureKind, Message, Pending, Retry, TaskFailure

REQUEST = SearchRequest(request_id="r1", pattern="def", file_path="a.py", repeat=2)


def handler() -> SearchHandler:
    return SearchHandler(SearchSettings(fail_chance=0.05), max_retries=3)


def result(stdout: bytes = b"", stderr: bytes = b"") -> TaskResult:
    return TaskResult(
        task=Task(metadata=REQUEST),
        exit_code=0,
        stdout=stdout,
        stderr=stderr,
        started_at=0.0,
        duration_seconds=0.5,
        pid=1,
        usage=Usage(),
        truncated=False,
        attempt=1,
    )


def failure(kind: FailureKind, attempt: int = 1, stderr: bytes = b"") -> TaskFailure:
    return TaskFailure(
        task=Task(), kind=kind, detail="why", attempt=attempt, result=result(stderr=stderr)
    )


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


def test_the_match_count_goes_to_both_sinks() -> None:
    kafka, postgres = asyncio.run(handler().collect(result(b"1\n2\n")))
    assert isinstance(kafka, KafkaPayload)
    assert isinstance(postgres, PostgresPayload)
    assert isinstance(kafka.value, dict)
    assert kafka.value["match_count"] == postgres.row["match_count"] == 2
    assert postgres.on_conflict == Upsert(keys=("request_id",))


@pytest.mark.parametrize(("attempt", "kind"), [(1, Retry), (3, Retry), (4, DeadLetter)])
def test_simulated_failures_are_tried_again(attempt: int, kind: type) -> None:
    simulated = failure(FailureKind.EXIT, attempt, b"SIMULATED FAILURE at iteration 2/2")
    assert isinstance(asyncio.run(handler().on_error(simulated)), kind)


def test_a_timeout_is_dead_lettered_at_once() -> None:
    decision = asyncio.run(handler().on_error(failure(FailureKind.TIMEOUT)))
    assert decision == DeadLetter(reason="timed out: why")
