"""Sink kind ``kafka``: records of a topic, by an idempotent producer.

``deliver`` returns when every record of the batch has its delivery report: acks=all.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar

import orjson
from confluent_kafka import KafkaError, KafkaException, Message, Producer
from pydantic import Field

from domain.payload import KafkaPayload
from sinks.base import ConfigError, Delivery, PermanentError, SinkError, TransientError
from sinks.config import SinkConfig
from sinks.registry import SinkContext, SinkKind, register

POLL_SECONDS = 0.05
REPORT_SECONDS = 1.5
"""How long after its time a report may come: the client looks for late records once a second."""
ASK_SECONDS = 1.0
"""How long to ask what became of a topic whose records timed out."""

PERMANENT = frozenset(
    {
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.RECORD_LIST_TOO_LARGE,
        KafkaError.INVALID_RECORD,
        KafkaError.INVALID_MSG,
        KafkaError.INVALID_MSG_SIZE,
        KafkaError._INVALID_ARG,
    }
)
CONFIG = frozenset(
    {
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError._UNKNOWN_PARTITION,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError._AUTHENTICATION,
        KafkaError.TOPIC_EXCEPTION,
        KafkaError.UNSUPPORTED_FOR_MESSAGE_FORMAT,
        KafkaError._SSL,
    }
)

logger = logging.getLogger("drakkar.librdkafka")


class KafkaSinkConfig(SinkConfig):
    """Keys of a kafka sink; ``brokers`` defaults to the source's."""

    topic: str = Field(min_length=1, max_length=249)
    brokers: str | None = None
    client: dict[str, Any] = Field(default_factory=dict)


@dataclass(slots=True)
class Report:
    """The delivery report of one record."""

    error: KafkaError | None = None
    partition: int = -1
    offset: int = -1
    is_in: bool = False

    def __call__(self, error: KafkaError | None, message: Message) -> None:
        """Called by the client from ``poll``."""
        self.error, self.is_in = error, True
        if error is None:
            self.partition = message.partition() or 0
            self.offset = message.offset() or 0


def translate(error: KafkaError, topic: str) -> SinkError:
    """The client's error in our words (one table: PERMANENT, CONFIG, all else is transient)."""
    detail = f"topic {topic}: {error.name()}: {error.str()}"
    if is_fatal(error):
        return TransientError(detail)
    if error.code() in PERMANENT:
        return PermanentError(detail)
    if error.code() in CONFIG:
        return ConfigError(f"{detail}; does the topic exist and may this client write to it?")
    return TransientError(detail)


def is_fatal(error: KafkaError) -> bool:
    """Whether the client that met it is of no use any more; a new one is."""
    return bool(error.fatal()) or error.code() == KafkaError._FATAL


class TopicWriter:
    """One producer for one topic; made anew after a fatal error. Used by one thread."""

    def __init__(
        self, *, topic: str, brokers: str, client: dict[str, Any], timeout_seconds: float
    ) -> None:
        self.topic = topic
        self._timeout_seconds = timeout_seconds
        self._config = {
            "bootstrap.servers": brokers,
            "enable.idempotence": True,
            "acks": "all",
            "linger.ms": 0,
            "delivery.timeout.ms": int(timeout_seconds * 1000),
            "socket.timeout.ms": int(timeout_seconds * 1000),
            "allow.auto.create.topics": False,
            "log_level": 3,
            **client,
        }
        self._producer: Producer | None = None

    def partition_count(self, timeout_seconds: float | None = None) -> int:
        """Partitions of the topic. Raises TransientError or ConfigError."""
        client = self._client()
        try:
            metadata = client.list_topics(
                self.topic, timeout=timeout_seconds or self._timeout_seconds
            )
        except KafkaException as exc:
            raise translate(exc.args[0], self.topic) from exc
        topic = metadata.topics[self.topic]
        if topic.error is not None:
            raise translate(topic.error, self.topic)
        return len(topic.partitions)

    def write(self, records: Sequence[dict[str, Any]]) -> list[Report]:
        """Write all and wait for every report; each report tells its own end.

        Raises TransientError when the reports do not come in time, ConfigError when the client's
        options are refused or the topic does not exist.
        """
        producer, reports = self._client(), [Report() for _ in records]
        for record, report in zip(records, reports, strict=True):
            self._produce(producer, record, report)
        deadline = time.monotonic() + self._timeout_seconds + REPORT_SECONDS
        while not all(report.is_in for report in reports):
            if (fatal := _poll(producer)) is not None:
                _end_open(reports, fatal)
            if time.monotonic() > deadline:
                self._look_for_topic()
                self._producer = None
                raise TransientError(f"topic {self.topic}: no delivery report in time")
        errors = [report.error for report in reports if report.error is not None]
        if any(map(is_fatal, errors)):
            self._producer = None
        if any(error.code() == KafkaError._MSG_TIMED_OUT for error in errors):
            self._look_for_topic()
        return reports

    def close(self) -> None:
        """Forget the producer; every report is in."""
        self._producer = None

    def _client(self) -> Producer:
        if self._producer is None:
            try:
                # Else librdkafka writes to stderr itself, and stands still when nobody reads it.
                self._producer = Producer(self._config, logger=logger)
            except (KafkaException, TypeError, ValueError) as exc:
                raise ConfigError(f"topic {self.topic}: client options refused: {exc}") from exc
        return self._producer

    def _produce(self, producer: Producer, record: dict[str, Any], report: Report) -> None:
        while not report.is_in:
            try:
                producer.produce(self.topic, on_delivery=report, **record)
                return
            except BufferError:
                if (fatal := _poll(producer)) is not None:
                    _end_open([report], fatal)
            except KafkaException as exc:
                _end_open([report], exc.args[0])
            except (TypeError, ValueError) as exc:
                _end_open([report], KafkaError(KafkaError._INVALID_ARG, str(exc)))

    def _look_for_topic(self) -> None:
        """Records of a topic that does not exist time out (the client waits for it to appear)."""
        with suppress(TransientError):
            self.partition_count(ASK_SECONDS)


def _poll(producer: Producer) -> KafkaError | None:
    """Serve the reports that are there; the error when the client broke down for good."""
    try:
        producer.poll(POLL_SECONDS)
    except KafkaException as exc:
        error: KafkaError = exc.args[0]
        return error
    return None


def _end_open(reports: Sequence[Report], error: KafkaError) -> None:
    for report in reports:
        if not report.is_in:
            report.error, report.is_in = error, True


class KafkaSink:
    """See the module's docstring."""

    kind: ClassVar[str] = "kafka"

    def __init__(self, config: KafkaSinkConfig, context: SinkContext) -> None:
        client = context.source_client if config.brokers is None else {}
        self._writer = TopicWriter(
            topic=config.topic,
            brokers=config.brokers or context.source_brokers,
            client={**client, **config.client},
            timeout_seconds=config.timeout_seconds,
        )

    def open(self) -> None:
        """Ask for the topic. Raises TransientError or ConfigError."""
        self._writer.partition_count()

    def deliver(self, batch: Sequence[Delivery]) -> None:
        """Write the batch; see ``Sink.deliver``."""
        try:
            records = [_record(delivery) for delivery in batch]
        except (TypeError, ValueError) as exc:
            raise PermanentError(f"topic {self._writer.topic}: not encodable: {exc}") from exc
        reports = self._write(records)
        errors = {index: report.error for index, report in enumerate(reports) if report.error}
        if not errors:
            return
        stored = [index for index in range(len(batch)) if index not in errors]
        translated = {i: translate(error, self._writer.topic) for i, error in errors.items()}
        waits = [e for e in translated.values() if not isinstance(e, PermanentError)]
        if not waits:
            raise PermanentError(str(next(iter(translated.values()))), tuple(errors))
        if isinstance(waits[0], ConfigError):
            raise ConfigError(str(waits[0]), stored)
        raise TransientError(str(waits[0]), stored_indices=stored)

    def close(self) -> None:
        """Release the producer."""
        self._writer.close()

    def _write(self, records: Sequence[dict[str, Any]]) -> list[Report]:
        """The broker refuses a request whole: what was refused in company is sent again alone."""
        reports = self._writer.write(records)
        for index, report in enumerate(reports):
            if len(records) == 1 or report.error is None or report.error.code() not in PERMANENT:
                continue
            reports[index] = alone = self._writer.write([records[index]])[0]
            if alone.error is not None and alone.error.code() not in PERMANENT:
                break  # the broker went away: the lane comes back with what is not stored
        return reports


def encode(value: Any) -> bytes | None:
    """Bytes as they are, text as UTF-8, None as a tombstone, all else as JSON."""
    if value is None or isinstance(value, bytes):
        return value
    return value.encode() if isinstance(value, str) else orjson.dumps(value)


def _record(delivery: Delivery) -> dict[str, Any]:
    payload = delivery.payload
    assert isinstance(payload, KafkaPayload)
    headers = [(name, encode(value)) for name, value in payload.headers.items()]
    headers.append(("drakkar-delivery-id", delivery.delivery_id.encode()))
    if delivery.traceparent and "traceparent" not in payload.headers:
        headers.append(("traceparent", delivery.traceparent.encode()))
    return {"value": encode(payload.value), "key": encode(payload.key), "headers": headers}


KIND = register(
    SinkKind(name="kafka", config=KafkaSinkConfig, payload=KafkaPayload, build=KafkaSink)
)
