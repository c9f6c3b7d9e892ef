"""Sink kind ``kafka`` on the client library's mock and on Apache Kafka."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from domain.payload import KafkaPayload, Payload
from integration.services import kafka_apache, kafka_mock
from integration.services.ports import LOOPBACK
from sinks.backends.kafka import KafkaSink, KafkaSinkConfig
from sinks.base import ConfigError, PermanentError, Sink, SinkError, TransientError
from sinks.registry import SinkContext
from tests.contract.sinks.subject import (
    SINK,
    TIMEOUT_SECONDS,
    Case,
    Row,
    delivery,
    freeze,
    new_ids,
    thaw,
)
from tests.support.lanes import deliver
from tests.support.proxy import Proxy

PARTITIONS = 2
READ_SECONDS = 20.0
MAX_RECORD_BYTES = 20_000


class KafkaSubject:
    """One topic; ``bad`` is larger than the topic takes."""

    def __init__(self, server: kafka_mock.RunningMock | kafka_apache.RunningKafka) -> None:
        self.server = server
        self.topic = f"t-{uuid4().hex[:8]}"
        self.reply_mark = self.topic.encode()
        self.bad_bytes = 2_000_000

    def freeze(self) -> None:
        freeze([psutil.Process(self.server.pid)])

    def thaw(self) -> None:
        thaw([psutil.Process(self.server.pid)])

    def build(self, proxy: Proxy | None = None, **keys: Any) -> Sink:
        config = KafkaSinkConfig.model_validate(
            {
                "kind": "kafka",
                "topic": self.topic,
                "brokers": self.server.brokers if proxy is None else proxy.address,
                "timeout_seconds": TIMEOUT_SECONDS,
                **keys,
            }
        )
        context = SinkContext(cluster="c", name=SINK, source_brokers="", source_client={})
        return KafkaSink(config, context)

    def good(self, delivery_id: str) -> Payload:
        return KafkaPayload(sink=SINK, value=delivery_id, key=delivery_id)

    def bad(self, delivery_id: str) -> Payload:
        return KafkaPayload(sink=SINK, value=os.urandom(self.bad_bytes), key=delivery_id)

    def unencodable(self, delivery_id: str, value: Any) -> Payload:
        return KafkaPayload(sink=SINK, value={"x": value})

    def stored(self) -> Counter[str]:
        """Read every partition up to the end it has now."""
        found: Counter[str] = Counter()
        consumer = Consumer({"bootstrap.servers": self.server.brokers, "group.id": uuid4().hex})
        try:
            for partition in range(PARTITIONS):
                found += self._read(consumer, partition)
        finally:
            consumer.close()
        return found

    def _read(self, consumer: Consumer, partition: int) -> Counter[str]:
        where = TopicPartition(self.topic, partition, OFFSET_BEGINNING)
        _, end = consumer.get_watermark_offsets(where, timeout=READ_SECONDS)
        consumer.assign([where])
        found: Counter[str] = Counter()
        deadline = time.monotonic() + READ_SECONDS
        read = 0
        while read < end:
            assert time.monotonic() < deadline, f"read {read} of {end}"
            if (message := consumer.poll(0.5)) is None or message.error() is not None:
                continue
            read = (message.offset() or 0) + 1
            headers: dict[str, Any] = dict(message.headers() or [])
            found[str(headers["drakkar-delivery-id"], "utf-8")] += 1
        return found

    def proxy(self) -> Proxy:
        """It is what the broker's own answers name, too."""
        port = int(self.server.brokers.rpartition(":")[2])
        host = LOOPBACK.encode()
        proxy = Proxy(LOOPBACK, port)
        proxy.rewritten = (host + port.to_bytes(4, "big"), host + proxy.port.to_bytes(4, "big"))
        return proxy


class MockSubject(KafkaSubject):
    """The mock: it takes what the client lets pass, so the client's own limit refuses."""

    def __init__(self, server: kafka_mock.RunningMock) -> None:
        super().__init__(server)
        server.create_topic(self.topic, PARTITIONS)
        self.stop, self.start = server.broker_down, server.broker_up
        self.push_errors = server.push_errors


class ApacheSubject(KafkaSubject):
    """Apache Kafka: a topic with a smaller limit than the client's."""

    def __init__(self, server: kafka_apache.RunningKafka) -> None:
        super().__init__(server)
        self._running = server
        self.bad_bytes = 2 * MAX_RECORD_BYTES
        self.stop = server.stop
        limit = {"max.message.bytes": str(MAX_RECORD_BYTES)}
        admin = AdminClient({"bootstrap.servers": server.brokers})
        for done in admin.create_topics(
            [NewTopic(self.topic, PARTITIONS, 1, config=limit)]
        ).values():
            done.result(READ_SECONDS)

    def start(self) -> None:
        self._running.start()


@contextmanager
def _mock(folder: Path) -> Iterator[MockSubject]:
    with kafka_mock.running(folder) as server:
        yield MockSubject(server)


@contextmanager
def _apache(folder: Path) -> Iterator[ApacheSubject]:
    with kafka_apache.running(folder) as server:
        yield ApacheSubject(server)


PRODUCE = 0
"""ApiKey of the Produce request."""


def _answered(code: int, subject: MockSubject) -> None:
    """The broker answers one request that carries one record with this code."""
    sink = subject.build()
    try:
        for number, delivery_id in enumerate(new_ids(2)):
            if number:  # the first one had to be stored: the client is warm
                subject.push_errors(PRODUCE, code)
            deliver(sink, [delivery(subject.good(delivery_id), delivery_id)])
    finally:
        sink.close()


def _unknown_topic(subject: KafkaSubject, **keys: Any) -> None:
    (delivery_id,) = new_ids(1)
    deliver(subject.build(topic="none", **keys), [delivery(subject.good(delivery_id), delivery_id)])


def _opened(subject: KafkaSubject, **keys: Any) -> None:
    subject.build(**keys).open()


BY_CODE: dict[int, type[SinkError]] = {
    KafkaError.MSG_SIZE_TOO_LARGE: PermanentError,
    KafkaError.RECORD_LIST_TOO_LARGE: PermanentError,
    KafkaError.INVALID_RECORD: PermanentError,
    KafkaError.TOPIC_AUTHORIZATION_FAILED: ConfigError,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: ConfigError,
    KafkaError.TOPIC_EXCEPTION: ConfigError,
    KafkaError.UNSUPPORTED_FOR_MESSAGE_FORMAT: ConfigError,
    KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER: TransientError,
    KafkaError.INVALID_PRODUCER_EPOCH: TransientError,
    KafkaError.THROTTLING_QUOTA_EXCEEDED: TransientError,
}

MISSING = (
    Row("unknown topic", ConfigError, _unknown_topic),
    Row(
        "unknown topic, no report in time",
        ConfigError,
        partial(_unknown_topic, client={"delivery.timeout.ms": 60_000}),
    ),
    Row("unknown topic at open", ConfigError, partial(_opened, topic="none")),
    Row("unknown client option", ConfigError, partial(_opened, client={"nonsense": 1})),
    Row("client option of a wrong kind", ConfigError, partial(_opened, client={"acks": object()})),
)
ANSWERS = tuple(
    Row(KafkaError(code).name(), expected, partial(_answered, code))
    for code, expected in BY_CODE.items()
)

CASES = [
    Case(name="kafka-mock", service="mock", start=_mock, repeats=True, rows=ANSWERS + MISSING),
    Case(name="kafka-apache", service="apache", start=_apache, repeats=True, rows=MISSING),
]
