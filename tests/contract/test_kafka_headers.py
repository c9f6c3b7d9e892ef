"""What the kafka sink writes into a record's headers, read back from a broker."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

from domain.payload import KafkaPayload
from integration.services.kafka_mock import RunningMock
from sinks.backends.kafka import KafkaSink, KafkaSinkConfig
from sinks.base import Delivery
from sinks.registry import SinkContext
from tests.support.lanes import deliver

TRACE = f"00-{'ab' * 16}-{'cd' * 8}-01"


@pytest.mark.parametrize(
    ("own", "given", "sent"),
    [
        ({}, TRACE, [TRACE.encode()]),
        ({"traceparent": "own"}, TRACE, [b"own"]),
        ({}, None, []),
    ],
)
def test_the_trace_goes_on_unless_the_payload_has_its_own(
    kafka_mock: RunningMock, own: dict[str, str], given: str | None, sent: list[bytes]
) -> None:
    topic = f"headers-{uuid4().hex[:8]}"
    kafka_mock.create_topic(topic, 1)
    config = KafkaSinkConfig(kind="kafka", topic=topic, brokers=kafka_mock.brokers)
    context = SinkContext(cluster="c", name="out", source_brokers="", source_client={})
    sink = KafkaSink(config, context)
    sink.open()
    deliver(
        sink,
        [
            Delivery(
                payload=KafkaPayload(sink="out", value="x", headers=own),
                delivery_id="d",
                topic="t",
                partition=0,
                offset=0,
                traceparent=given,
            )
        ],
    )
    sink.close()
    headers = _headers(kafka_mock.brokers, topic)
    assert [value for name, value in headers if name == "traceparent"] == sent
    assert ("drakkar-delivery-id", b"d") in headers


def _headers(brokers: str, topic: str) -> list[tuple[str, bytes | None]]:
    consumer = Consumer({"bootstrap.servers": brokers, "group.id": topic})
    try:
        consumer.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])
        message = consumer.poll(20)
        assert message is not None
        assert message.error() is None, message.error()
        pairs: Any = message.headers() or []
        return list(pairs)
    finally:
        consumer.close()
