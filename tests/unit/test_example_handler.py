"""The handler guide's example works as it stands."""

from __future__ import annotations

import asyncio

from docs.examples.word_count import CountRequest, WordCountHandler
from domain.payload import KafkaPayload
from domain.task import Task
from tests.support.results import ended_well
from workers.handler import DeadLetter, FailureKind, Message, Pending, Retry, TaskFailure


def message(offset: int, value: bytes) -> Message[None]:
    return Message(
        topic="t",
        partition=0,
        offset=offset,
        key=None,
        value=value,
        headers=(),
        timestamp=0,
        payload=None,
    )


def handler() -> WordCountHandler:
    return WordCountHandler({})


def test_a_message_becomes_one_task() -> None:
    raw = message(7, b'{"file_path": "-a.txt"}')
    parsed = Message(
        topic="t",
        partition=0,
        offset=7,
        key=None,
        value=raw.value,
        headers=(),
        timestamp=0,
        payload=handler().parse(raw),
    )
    (task,) = asyncio.run(handler().arrange([parsed], Pending(tasks={})))
    assert task.args == ("-w", "--", "-a.txt")
    assert task.source_offsets == (7,)


def test_the_count_is_delivered() -> None:
    result = ended_well(CountRequest(file_path="a.txt"), b" 12 a.txt\n")
    (payload,) = asyncio.run(handler().collect(result))
    assert isinstance(payload, KafkaPayload)
    assert payload.value == {"file_path": "a.txt", "words": 12}


def test_a_missing_file_is_not_tried_again() -> None:
    failure = TaskFailure(task=Task(), kind=FailureKind.EXIT, detail="exit code 1", attempt=1)
    decision = asyncio.run(handler().on_error(failure))
    assert decision == DeadLetter(reason="wc: exit code 1")


def test_other_failures_follow_the_default() -> None:
    failure = TaskFailure(task=Task(), kind=FailureKind.TIMEOUT, detail="timed out", attempt=1)
    assert isinstance(asyncio.run(handler().on_error(failure)), Retry)
