"""Sink kind ``kafka``: records of a topic, by an idempotent producer.

``send`` returns when every record of the batch has its delivery report: acks=all.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar

from confluent_kafka import KafkaError, KafkaException, Message, Producer
from pydantic import Field

from domain.origin import is_own_header
from domain.payload import KafkaPayload
from sinks.base import (
    ConfigError,
    Delivery,
    PermanentError,
    SinkError,
    TransientError,
    UnknownError,
    raise_failures,
    refusal,
    repetition_id,
)
from sinks.config import Brokers, SinkConfig
from sinks.json_form import NotJson, encode_json
from sinks.registry import SinkContext, SinkKind

POLL_SECONDS = 0.05
REPORT_SECONDS = 1.5
"""Seconds that a report may be late: the client looks for late records once a second."""
ASK_SECONDS = 1.0
"""Seconds to ask what became of a topic whose records timed out."""

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
        KafkaError.UNSUPPORTED_VERSION,
        KafkaError.UNSUPPORTED_COMPRESSION_TYPE,
        KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
        KafkaError.UNSUPPORTED_SASL_MECHANISM,
        KafkaError.ILLEGAL_SASL_STATE,
        KafkaError.SECURITY_DISABLED,
        KafkaError.INVALID_TIMESTAMP,
        KafkaError.INVALID_REQUIRED_ACKS,
        KafkaError.INVALID_CONFIG,
        KafkaError.POLICY_VIOLATION,
        KafkaError._UNSUPPORTED_FEATURE,
        KafkaError._SSL,
    }
)
TRANSIENT = frozenset(
    {
        KafkaError.UNKNOWN,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.BROKER_NOT_AVAILABLE,
        KafkaError.REPLICA_NOT_AVAILABLE,
        KafkaError.NETWORK_EXCEPTION,
        KafkaError.NOT_ENOUGH_REPLICAS,
        KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND,
        KafkaError.NOT_CONTROLLER,
        KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER,
        KafkaError.DUPLICATE_SEQUENCE_NUMBER,
        KafkaError.INVALID_PRODUCER_EPOCH,
        KafkaError.PRODUCER_FENCED,
        KafkaError.UNKNOWN_PRODUCER_ID,
        KafkaError.UNKNOWN_TOPIC_ID,
        KafkaError.INCONSISTENT_TOPIC_ID,
        KafkaError.LISTENER_NOT_FOUND,
        KafkaError.REBOOTSTRAP_REQUIRED,
        KafkaError.KAFKA_STORAGE_ERROR,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.NOT_COORDINATOR,
        KafkaError.THROTTLING_QUOTA_EXCEEDED,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.STALE_BROKER_EPOCH,
        KafkaError.REASSIGNMENT_IN_PROGRESS,
        KafkaError.OPERATION_NOT_ATTEMPTED,
        KafkaError._MSG_TIMED_OUT,
        KafkaError._TRANSPORT,
        KafkaError._RESOLVE,
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._TIMED_OUT,
        KafkaError._TIMED_OUT_QUEUE,
        KafkaError._QUEUE_FULL,
        KafkaError._PURGE_QUEUE,
        KafkaError._PURGE_INFLIGHT,
        KafkaError._DESTROY,
        KafkaError._FAIL,
        KafkaError._FATAL,
        KafkaError._STATE,
        KafkaError._IN_PROGRESS,
        KafkaError._INTR,
        KafkaError._WAIT_CACHE,
        KafkaError._WAIT_COORD,
        KafkaError._CRIT_SYS_RESOURCE,
        KafkaError._RETRY,
        KafkaError._GAPLESS_GUARANTEE,
        KafkaError._FENCED,
        KafkaError._ISR_INSUFF,
        KafkaError._NODE_UPDATE,
        KafkaError._UNKNOWN_BROKER,
        KafkaError._BAD_MSG,
    }
)
"""Errors that wait; one that stands in no table is unknown."""

logger = logging.getLogger("drakkar.librdkafka")


class KafkaSinkConfig(SinkConfig):
    """Keys of a kafka sink; ``brokers`` defaults to the source's."""

    topic: str = Field(min_length=1, max_length=249)
    brokers: Brokers | None = None
    client: dict[str, Any] = Field(default_factory=dict)


@dataclass(slots=True)
class Report:
    """Delivery report of one record."""

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
    """Return the client's error in our words, by its code."""
    detail = f"topic {topic}: {error.name()}: {error.str()}"
    if is_fatal(error):
        return TransientError(detail)
    if error.code() in PERMANENT:
        return PermanentError(detail)
    if error.code() in CONFIG:
        return ConfigError(f"{detail}; does the topic exist and may this client write to it?")
    return TransientError(detail) if error.code() in TRANSIENT else UnknownError(detail)


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
    """Sink that produces payloads to a topic (module's docstring)."""

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

    def encode(self, delivery: Delivery) -> dict[str, Any]:
        """Return the record of a payload. Raises PermanentError naming the field."""
        payload = delivery.payload
        assert isinstance(payload, KafkaPayload)
        headers = [
            (_text("headers", name), _bytes(f"headers.{name}", value))
            for name, value in payload.headers.items()
            if not is_own_header(name)
        ]
        headers.append(("drakkar-delivery-id", repetition_id(delivery).encode()))
        if delivery.traceparent and "traceparent" not in payload.headers:
            headers.append(("traceparent", delivery.traceparent.encode()))
        value, key = _bytes("value", payload.value), _bytes("key", payload.key)
        return {"value": value, "key": key, "headers": headers}

    def send(self, batch: Sequence[dict[str, Any]]) -> None:
        """Write the batch; see ``Sink.send``."""
        reports = self._write(batch)
        failures = {
            index: translate(report.error, self._writer.topic)
            for index, report in enumerate(reports)
            if report.error is not None
        }
        raise_failures(failures, [i for i in range(len(batch)) if i not in failures])

    def close(self) -> None:
        """Release the producer."""
        self._writer.close()

    def _write(self, records: Sequence[dict[str, Any]]) -> list[Report]:
        """Settle records that the broker refused with a request: those in company are sent again
        alone."""
        reports = self._writer.write(records)
        for index, report in enumerate(reports):
            if len(records) == 1 or report.error is None or report.error.code() not in PERMANENT:
                continue
            reports[index] = alone = self._writer.write([records[index]])[0]
            if alone.error is not None and alone.error.code() not in PERMANENT:
                break  # the broker went away: the lane comes back with what is not stored
        return reports


def _text(field: str, text: str) -> str:
    try:
        text.encode()
    except (AttributeError, UnicodeEncodeError) as exc:
        raise refusal(field, exc) from exc
    if "\0" in text:  # the client would cut it off there
        raise PermanentError(f"{field}: expected names without NUL, got {text!r:.100}")
    return text


def _bytes(field: str, value: Any) -> bytes | None:
    """Bytes as they are, text as UTF-8, None as a tombstone, all else as JSON."""
    if value is None or isinstance(value, bytes):
        return value
    try:
        return value.encode() if isinstance(value, str) else encode_json(value, field)
    except NotJson as exc:
        raise PermanentError(str(exc)) from exc
    except UnicodeEncodeError as exc:
        raise refusal(field, exc) from exc


KIND = SinkKind(name="kafka", config=KafkaSinkConfig, payload=KafkaPayload, build=KafkaSink)
