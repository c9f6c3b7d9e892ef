"""A record whose header name is not UTF-8, as a C program may write it, is read all the same."""

from __future__ import annotations

import ctypes
from uuid import uuid4

from integration.services import kafka_mock
from integration.services.kafka_mock import RunningMock
from sinks.record_headers import record_headers
from sinks.record_reader import read_record
from tests.contract.test_broker_contract import PARTITIONS, Member, _on_kafka, fill

VTYPE_END, VTYPE_TOPIC, VTYPE_PARTITION, VTYPE_VALUE, VTYPE_FLAGS, VTYPE_HEADER = 0, 1, 3, 4, 7, 9
COPY, PRODUCER = 2, 0


def produce_with_header(brokers: str, topic: str, name: bytes) -> None:
    """By librdkafka itself: its Python binding takes text only."""
    library = ctypes.CDLL(str(kafka_mock.library_path()))
    library.rd_kafka_conf_new.restype = library.rd_kafka_new.restype = ctypes.c_void_p
    said = ctypes.create_string_buffer(512)
    config = ctypes.c_void_p(library.rd_kafka_conf_new())
    library.rd_kafka_conf_set(config, b"bootstrap.servers", brokers.encode(), said, 512)
    client = ctypes.c_void_p(library.rd_kafka_new(PRODUCER, config, said, ctypes.c_size_t(512)))
    assert client.value, said.value
    one = ctypes.c_size_t(1)
    parts = (VTYPE_TOPIC, topic.encode(), VTYPE_PARTITION, 0, VTYPE_FLAGS, COPY,
             VTYPE_VALUE, b"v", one, VTYPE_HEADER, name, b"x", one, VTYPE_END)  # fmt: skip
    assert library.rd_kafka_producev(client, *parts) == 0
    assert library.rd_kafka_flush(client, 10_000) == 0
    library.rd_kafka_destroy(client)


def test_one_strange_record_holds_nothing_back(kafka_mock: RunningMock) -> None:
    topic = f"t-{uuid4().hex[:8]}"
    kafka_mock.create_topic(topic, PARTITIONS)
    produce_with_header(kafka_mock.brokers, topic, b"bad\xff\xfename")
    world = _on_kafka(kafka_mock.brokers, topic, "consumer")
    fill(world, 1, 2)
    member = Member(world, "run-1")
    member.until(lambda: len(member.seen) >= 1 + 2 * PARTITIONS)
    assert [offset for partition, offset in member.seen if partition == 0] == [0, 1, 2]
    member.until(lambda: member.acknowledged.get(0) == 3)
    member.stop()
    found = read_record(topic, 0, 0, brokers=kafka_mock.brokers, client={}, timeout_seconds=30)
    assert found is not None
    assert (found.value(), record_headers(found)) == (b"v", ())
