"""Letters straight to their sinks: read from the mock of Kafka, through a running worker's lane."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest

from domain.failure import DeadLetterCause, FailureKind, Stage
from domain.message import Message
from domain.payload import (
    HttpPayload,
    KafkaPayload,
    MemoryPayload,
    MongoPayload,
    Payload,
    PostgresPayload,
    RedisPayload,
    Upsert,
)
from integration.services.kafka_mock import RunningMock
from sinks.config import DeadLettersConfig
from sinks.dead_letter import kafka_letters
from sinks.letter import LetterStamp, decode_payload, encode_payload, letter_headers
from sinks.replay_sink import RedeliveryOutcome
from tests.support.pipeline import cluster_config, new_cluster, running
from workers.config import ClusterConfig
from workers.control import Answer, LetterArguments
from workers.runtime import redelivery
from workers.runtime.redelivery import Redelivery

RECORD: Message[None] = Message(
    topic="requests", partition=1, offset=7, key=b"k", value=b"v",
    headers=[("traceparent", b"00-a-b-01")], timestamp=1700, payload=None,
)  # fmt: skip
CAUSE = DeadLetterCause(
    stage=Stage.DELIVER, kind=FailureKind.DELIVERY, reason="refused", attempts=1, task_id="1:7:0",
    sink="store", payload=MemoryPayload(sink="store", value={"n": b"\xff"}), delivery_id="id-7",
)  # fmt: skip


@pytest.mark.parametrize(
    "payload",
    [
        KafkaPayload(sink="s", value=b"\xff", key="k", headers={"h": b"\x00"}),
        PostgresPayload(
            sink="s", row={"at": datetime(2026, 3, 14, tzinfo=UTC)}, on_conflict=Upsert(keys=["a"])
        ),
        PostgresPayload(sink="s", row={"a": 1}, on_conflict="nothing", delivery_key="mine"),
        MongoPayload(sink="s", document={"a": [1, {"b": b"x"}]}, op="insert"),
        RedisPayload(sink="s", key="k", value=[1, 2], op="push"),
        HttpPayload(sink="s", body=b"\xfe", headers={"a": "b"}),
    ],
)
def test_a_payload_comes_back_as_it_was_written(payload: Payload) -> None:
    assert decode_payload(encode_payload(payload), type(payload)) == payload


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"{", "Expecting"),
        (b"[]", "not a payload of kind memory"),
        (b'{"kind": "http", "sink": "s", "fields": {}}', "expected a payload of kind memory"),
        (b'{"kind": "memory", "sink": "s", "fields": {"x": 1}}', "not a payload of kind memory"),
        (b'{"kind": "memory", "sink": "s", "fields": {"$unencodable": "x"}}', "not be written"),
    ],
)
def test_what_is_no_payload_is_refused(raw: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        decode_payload(raw, MemoryPayload)


@pytest.fixture
def config(kafka_mock: RunningMock) -> ClusterConfig:
    """The pipeline's cluster, with its dead letters on the mock."""
    name = f"redelivered-{uuid4().hex[:8]}"
    kafka_mock.create_topic(name, 2)
    letters = DeadLettersConfig(topic=name, brokers=kafka_mock.brokers)
    return cluster_config().model_copy(update={"dead_letters": letters})


def bury(config: ClusterConfig, *causes: DeadLetterCause) -> None:
    """Write letters as the worker does."""
    stamp = LetterStamp(cluster="main", group="g", worker="w")
    letters = config.dead_letters
    topic = kafka_letters(letters, topic=str(letters.topic), brokers="", client={})()
    for cause in causes:
        headers = letter_headers(RECORD, cause, stamp, 0.0)
        topic.write_record(RECORD.key, RECORD.value, headers, RECORD.partition)
    topic.close()


Seen = tuple[Answer, list[Any], list[Any]]
"""The answer, what the sink holds, and the deliveries told."""


async def redelivered(config: ClusterConfig, offset: int, is_paused: bool) -> Seen:
    async with running(new_cluster(1)) as live:
        await live.heard.until(lambda: bool(live.heard.of("assigned")))
        lane, worker = live.worker.lanes["store"], live.worker
        async with asyncio.timeout(20):
            while not lane.is_opened:
                await lane.test()
        if is_paused:
            lane.pause()
        redeliver = Redelivery(config, clock=worker.clock, tell=worker.tell)
        answer = await redeliver(LetterArguments(partition=1, offset=offset), worker.lanes)
        lane.resume()
        return answer, list(live.stored), live.heard.of("delivered")


def run(config: ClusterConfig, offset: int = 0, is_paused: bool = False) -> Seen:
    """Deliver the letter at that offset by a running worker."""
    return asyncio.run(redelivered(config, offset, is_paused))


def test_a_payload_is_stored_with_its_first_delivery_id(config: ClusterConfig) -> None:
    bury(config, CAUSE)
    answer, stored, (told,) = run(config)
    assert (answer.is_done, answer.detail) == (True, "stored by sink store")
    assert answer.result == {"arrival": "stored"}
    ((delivery),) = stored
    assert (delivery.payload, delivery.delivery_id) == (CAUSE.payload, "id-7")
    assert (delivery.topic, delivery.partition, delivery.offset) == ("requests", 1, 7)
    assert (delivery.task_id, delivery.traceparent) == ("1:7:0", "00-a-b-01")
    assert (told.delivery_id, told.offset, told.sink) == ("id-7", 7, "store")


def test_headers_of_an_earlier_letter_are_not_taken_for_the_letters_own(
    config: ClusterConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cluster may read the dead letters of another: its records have such headers already."""
    earlier = replace(CAUSE, payload=MemoryPayload(sink="store", value="of another cluster"))
    stamp = LetterStamp(cluster="other", group="g", worker="w")
    record = replace(RECORD, headers=letter_headers(RECORD, earlier, stamp, 0.0))
    monkeypatch.setitem(globals(), "RECORD", record)
    bury(config, replace(CAUSE, stage=Stage.TASK, payload=None))
    answer, stored, _ = run(config)
    assert answer.result == {"arrival": RedeliveryOutcome.REFUSED.value}
    assert "the letter holds no payload" in answer.detail
    assert stored == []


@pytest.mark.parametrize(
    ("cause", "offset", "arrival", "said"),
    [
        (CAUSE, 9, RedeliveryOutcome.GONE, "does not hold 1:9 any more"),
        (replace(CAUSE, payload=None), 0, RedeliveryOutcome.REFUSED, "the letter holds no payload"),
        (
            replace(CAUSE, payload=MemoryPayload(sink="old")), 0, RedeliveryOutcome.REFUSED,
            "sink: expected one of store, got old",
        ),
        (
            replace(CAUSE, payload=HttpPayload(sink="store")), 0, RedeliveryOutcome.REFUSED,
            "expected a payload of kind memory, got http",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_delivered_is_said(
    config: ClusterConfig,
    cause: DeadLetterCause,
    offset: int,
    arrival: RedeliveryOutcome,
    said: str,
) -> None:
    bury(config, cause)
    answer, stored, told = run(config, offset)
    assert answer.result == {"arrival": arrival.value}
    assert said in answer.detail
    assert (answer.is_done, stored, told) == (False, [], [])


def test_a_sink_that_takes_nothing_in_time_is_left_without_it(
    config: ClusterConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redelivery, "DELIVER_SECONDS", 0.2)
    bury(config, CAUSE)
    answer, stored, told = run(config, is_paused=True)
    assert answer.result == {"arrival": "refused"}
    assert "not stored within 0.2 s" in answer.detail
    assert (stored, told) == ([], [])
