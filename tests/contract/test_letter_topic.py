"""The dead-letter topic in Kafka: on the client library's mock and on Apache Kafka."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from sinks.base import ConfigError, PermanentError
from sinks.config import DeadLettersConfig
from sinks.dead_letter import kafka_letters
from sinks.record_writer import RecordTopic
from tests.support.services import require

PARTITIONS = 2
WAIT_SECONDS = 20.0
LIMIT_BYTES = 20_000
KEY, VALUE = b"\xff\x00key", b"\x00\xfevalue"
HEADERS: list[tuple[str, bytes | None]] = [("twice", b"1"), ("twice", b"\xff"), ("none", None)]


@pytest.fixture(params=["mock", "apache"])
def brokers(request: pytest.FixtureRequest) -> str:
    require(request.param)
    server = request.getfixturevalue(f"kafka_{request.param}")
    return str(server.brokers)


@pytest.fixture
def topic(brokers: str, request: pytest.FixtureRequest) -> str:
    name = f"dlq-{uuid4().hex[:8]}"
    if "mock" in request.node.callspec.id:
        request.getfixturevalue("kafka_mock").create_topic(name, PARTITIONS)
        return name
    admin = AdminClient({"bootstrap.servers": brokers})
    for done in admin.create_topics([NewTopic(name, PARTITIONS, 1)]).values():
        done.result(WAIT_SECONDS)
    return name


def letters(brokers: str, topic: str, **client: Any) -> RecordTopic:
    config = DeadLettersConfig(client=client)
    return kafka_letters(config, topic=topic, brokers=brokers, client={})()


def read(brokers: str, topic: str, partition: int) -> Any:
    consumer = Consumer({"bootstrap.servers": brokers, "group.id": uuid4().hex})
    try:
        consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING)])
        return consumer.poll(WAIT_SECONDS)
    finally:
        consumer.close()


def test_a_letter_is_the_original_byte_for_byte_in_its_own_partition(
    brokers: str, topic: str
) -> None:
    target = letters(brokers, topic)
    receipt = target.write_record(KEY, VALUE, HEADERS, 1)
    assert (receipt.topic, receipt.partition, receipt.offset) == (topic, 1, 0)
    stored = read(brokers, topic, 1)
    assert (stored.key(), stored.value(), stored.headers()) == (KEY, VALUE, HEADERS)
    target.close()


def test_a_partition_that_the_topic_has_not_is_chosen_by_the_client(
    brokers: str, topic: str
) -> None:
    target = letters(brokers, topic)
    assert target.write_record(KEY, None, [], PARTITIONS + 5).partition < PARTITIONS
    target.close()


def test_too_large_is_the_letters_fault_and_the_next_goes_through(brokers: str, topic: str) -> None:
    target = letters(brokers, topic, **{"message.max.bytes": LIMIT_BYTES})
    with pytest.raises(PermanentError, match="MSG_SIZE_TOO_LARGE"):
        target.write_record(KEY, b"x" * 2 * LIMIT_BYTES, [], 0)
    assert target.write_record(KEY, VALUE, [], 0).offset == 0
    target.close()


def test_a_missing_topic_is_the_operators_to_make(brokers: str) -> None:
    target = letters(brokers, "no-such-topic")
    with pytest.raises(ConfigError, match="does the topic exist"):
        target.write_record(KEY, VALUE, [], 0)
    target.close()
