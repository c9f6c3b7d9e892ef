"""Cluster ``fast``: what it asks of its program, and what it delivers."""

from __future__ import annotations

import asyncio
import json

import pytest
from pydantic import ValidationError

from domain.payload import KafkaPayload
from integration.handlers.fast import CountRequest, SymbolCountHandler
from tests.support.results import ended_well
from workers.handler import Message, Pending

REQUEST = CountRequest(request_id="r1", file_path="a.py")


def handler() -> SymbolCountHandler:
    return SymbolCountHandler({}, max_retries=3)


def test_a_search_request_becomes_one_count() -> None:
    value = b'{"request_id": "r1", "pattern": "x", "file_path": "a.py", "repeat": 3}'
    record = Message(
        topic="t",
        partition=0,
        offset=5,
        key=b"r1",
        value=value,
        headers=(),
        timestamp=0,
        payload=CountRequest.model_validate_json(value),
    )
    (task,) = asyncio.run(handler().arrange([record], Pending(tasks={})))
    assert json.loads(task.stdin) == {"file_path": "a.py"}
    assert task.labels == {"request_id": "r1"}
    assert task.source_offsets == (5,)
    assert task.args == ()


def test_the_count_is_delivered() -> None:
    printed = b'{"file_path": "a.py", "symbol_count": 12}\n'
    (payload,) = asyncio.run(handler().collect(ended_well(REQUEST, printed)))
    assert isinstance(payload, KafkaPayload)
    assert (payload.sink, payload.key) == ("counts", "r1")
    assert payload.value == {"request_id": "r1", "file_path": "a.py", "symbol_count": 12}


@pytest.mark.parametrize("printed", [b"", b"12", b'{"file_path": "a.py", "symbol_count": -1}'])
def test_what_is_no_count_raises(printed: bytes) -> None:
    with pytest.raises(ValidationError):
        asyncio.run(handler().collect(ended_well(REQUEST, printed)))
