"""Sink kind ``kafka`` on the client library's mock and on Apache Kafka."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from domain.payload import KafkaPayload, Payload
from integration.services import kafka_apache, kafka_mock
from integration.services.ports import LOOPBACK
from sinks.backends.kafka import KafkaSink, KafkaSinkConfig
from sinks.base import Sink
from sinks.registry import SinkContext
from tests.contract.sinks.subject import SINK, TIMEOUT_SECONDS, Case
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
        self.freeze, self.thaw = server.freeze, server.thaw

    def build(
        self, proxy: Proxy | None = None, *, topic: str | None = None, client: object = None
    ) -> Sink:
        config = KafkaSinkConfig.model_validate(
            {
                "kind": "kafka",
                "topic": topic or self.topic,
                "brokers": self.server.brokers if proxy is None else proxy.address,
                "client": client or {},
                "timeout_seconds": TIMEOUT_SECONDS,
            }
        )
        context = SinkContext(cluster="c", name=SINK, source_brokers="", source_client={})
        return KafkaSink(config, context)

    def good(self, delivery_id: str) -> Payload:
        return KafkaPayload(sink=SINK, value=delivery_id, key=delivery_id)

    def bad(self, delivery_id: str) -> Payload:
        return KafkaPayload(sink=SINK, value=os.urandom(self.bad_bytes), key=delivery_id)

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


CASES = [
    Case(name="kafka-mock", service="mock", start=_mock, repeats=True),
    Case(name="kafka-apache", service="apache", start=_apache, repeats=True),
]
