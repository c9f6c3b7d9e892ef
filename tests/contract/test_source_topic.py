"""The source topic of a rerun in Apache Kafka: what it holds still, and what it does not."""

from __future__ import annotations

from uuid import uuid4

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from integration.demo.kafka import create_topics
from integration.services.kafka_apache import RunningKafka
from sinks.base import ConfigError
from sinks.replay import Original, Sent
from workers.config import KafkaConfig
from workers.control_plane.rerun.source import KafkaSourceTopic

RECORDS, DELETED = 600, 5


@pytest.fixture
def source(kafka_apache: RunningKafka) -> KafkaSourceTopic:
    """A topic of two partitions; the first lost its beginning to retention."""
    topic = f"source-{uuid4().hex}"
    create_topics(kafka_apache.brokers, [topic], 2)
    producer = Producer({"bootstrap.servers": kafka_apache.brokers})
    for number in range(RECORDS):
        producer.produce(topic, f"{number}".encode(), b"k", 0, headers=[("h", b"1")])
        producer.poll(0)
    assert producer.flush(20) == 0
    edge = TopicPartition(topic, 0, DELETED)
    admin = AdminClient({"bootstrap.servers": kafka_apache.brokers})
    for done in admin.delete_records([edge]).values():
        done.result(60)
    config = KafkaConfig(brokers=kafka_apache.brokers, topic=topic, group="g")
    found = KafkaSourceTopic(config)
    found.open()
    return found


def test_records_are_read_by_their_places_near_and_far(source: KafkaSourceTopic) -> None:
    held = [(0, offset) for offset in (DELETED, DELETED + 1, 450, RECORDS - 1)]
    gone = [(0, 0), (0, DELETED - 1), (0, RECORDS), (1, 0), (7, 3)]
    found = source.read([*held, *gone])
    assert [place for place in gone if found[place] is not None] == []
    for place in held:
        record = found[place]
        assert record is not None
        assert (record.offset, record.value, record.key) == (place[1], b"%d" % place[1], b"k")
        assert (list(record.headers), record.timestamp > 0) == ([("h", b"1")], True)


def test_records_are_stored_in_their_partitions_and_answered_each(
    source: KafkaSourceTopic,
) -> None:
    good = Original(key=b"k", value=b"v", headers=[("h", None)])
    large = Original(key=None, value=b"x" * 1_200_000, headers=[])
    first, refused, third = source.send([(0, good), (0, large), (1, good)])
    assert isinstance(first, Sent)
    assert (first.topic, first.partition, first.offset) == (source.topic, 0, RECORDS)
    assert not isinstance(refused, Sent)
    assert isinstance(third, Sent)
    assert (third.partition, third.offset) == (1, 0)
    again = source.read([(1, 0)])[1, 0]
    assert again is not None
    assert (again.value, list(again.headers)) == (b"v", [("h", None)])


def test_a_topic_that_is_not_there_is_named(kafka_apache: RunningKafka) -> None:
    config = KafkaConfig(brokers=kafka_apache.brokers, topic="nowhere-to-be", group="g")
    with pytest.raises(ConfigError, match="nowhere-to-be"):
        KafkaSourceTopic(config).open()
