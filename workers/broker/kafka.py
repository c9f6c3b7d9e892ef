"""Kafka by confluent-kafka: the one place in the worker that makes its Consumer and AdminClient."""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import confluent_kafka as ck
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    OffsetSpec,
)

from domain.message import Record
from workers.broker.base import (
    BrokerError,
    BrokerFatal,
    BrokerUnavailable,
    CallbackGuard,
    CommittedOffset,
    GroupConfig,
    GroupProtocolUnsupported,
    PollInterrupted,
    RebalanceListener,
    Start,
    TopicMissing,
    TopicPartition,
    Watermarks,
    fall_back,
)
from workers.broker.kafka_errors import raised, raised_or_same, translate
from workers.broker.kafka_group import set_group_config
from workers.broker.kafka_protocol import JoinSign, JoinWatch
from workers.broker.kafka_records import (
    bare,
    isolation_of,
    key_of,
    keys_of,
    outcome_of,
    partition_of,
    record_of,
)

logger = logging.getLogger("drakkar.broker")

STATISTICS_INTERVAL_MS = 2000
TOPIC_TIMEOUT_SECONDS = 2.0
NOT_OFFERED = (
    "kafka.group_protocol: the group's coordinator does not offer consumer (Kafka 4.0 and later "
    "do): set auto or classic"
)

_LOGICAL = {
    Start.EARLIEST: ck.OFFSET_BEGINNING,
    Start.LATEST: ck.OFFSET_END,
    Start.COMMITTED: ck.OFFSET_STORED,
}


def client_config(config: GroupConfig, protocol: str) -> dict[str, Any]:
    """librdkafka's properties for one protocol; the user's own may replace only the first ones."""
    properties: dict[str, Any] = {}
    if config.retry_topic is not None and protocol == "consumer":
        # The default shares out both topics as one: a member may get nothing of the source.
        properties["group.remote.assignor"] = "range"
    properties |= {
        "queued.max.messages.kbytes": 16_384,
        "statistics.interval.ms": STATISTICS_INTERVAL_MS,
        **config.client,
        "bootstrap.servers": config.brokers,
        "group.id": config.group,
        "group.protocol": protocol,
        "max.poll.interval.ms": config.max_poll_interval_ms,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "error",
        "allow.auto.create.topics": False,
        "enable.partition.eof": True,
    }
    if protocol == "classic":
        session = config.session_timeout_ms or 45_000
        properties["session.timeout.ms"] = session
        properties["heartbeat.interval.ms"] = config.heartbeat_interval_ms or min(
            3000, max(1, session // 3)
        )
        properties["partition.assignment.strategy"] = "cooperative-sticky"
    return properties


class KafkaBroker:
    """A member of a Kafka consumer group (see ``Broker``)."""

    def __init__(self, config: GroupConfig) -> None:
        self._config = config
        self._protocol = "classic" if config.protocol == "classic" else "consumer"
        self._joined = False
        self._watch = JoinWatch()
        self._is_topic_known = False
        self._sign = JoinSign.WAITING
        self._guard = CallbackGuard()
        self._fetched: set[TopicPartition] = set()
        self._reached: dict[TopicPartition, int] = {}
        self._unsupported: GroupProtocolUnsupported | None = None
        self._fatal: BrokerFatal | None = None
        self._listener: RebalanceListener
        self._consumer: ck.Consumer
        self._admin_lock = threading.Lock()
        self._admin: AdminClient | None = None

    @property
    def joined_protocol(self) -> str | None:
        return self._protocol if self._joined else None

    @property
    def topics(self) -> tuple[str, ...]:
        return self._config.topics

    def open(self, listener: RebalanceListener) -> None:
        self._listener = listener
        if self._protocol == "consumer":
            set_group_config(self._admin_client(), self._config)
            self._look_for_topic()
        self._join()

    def _join(self) -> None:
        self._consumer = ck.Consumer(
            {
                **client_config(self._config, self._protocol),
                "on_commit": self._on_commit,
                "error_cb": self._on_error,
                "stats_cb": self._on_statistics,
            },
            logger=logging.getLogger("drakkar.librdkafka"),
        )
        self._consumer.subscribe(
            list(self._config.topics),
            on_assign=self._on_assign,
            on_revoke=self._on_revoke,
            on_lost=self._on_lost,
        )

    # -- callbacks: none of them raises

    def _on_assign(self, _: ck.Consumer, partitions: list[ck.TopicPartition]) -> None:
        self._joined = True
        self._guard.run(lambda: self._listener.on_assign(keys_of(partitions)))

    def _on_revoke(self, _: ck.Consumer, partitions: list[ck.TopicPartition]) -> None:
        self._guard.run(lambda: self._listener.on_revoke(keys_of(partitions)))
        self._guard.run(lambda: self._release(keys_of(partitions)))

    def _on_lost(self, _: ck.Consumer, partitions: list[ck.TopicPartition]) -> None:
        self._guard.run(lambda: self._listener.on_lost(keys_of(partitions)))
        self._guard.run(lambda: self._release(keys_of(partitions)))

    def _release(self, partitions: Sequence[TopicPartition]) -> None:
        # Called with an empty list too: else the binding unassigns all, also what we stopped.
        mine = [key for key in partitions if key in self._fetched]
        self._fetched.difference_update(mine)
        for key in mine:
            self._reached.pop(key, None)
        self._call(lambda: self._consumer.incremental_unassign(bare(mine)))

    def _on_commit(self, error: ck.KafkaError | None, partitions: list[ck.TopicPartition]) -> None:
        outcomes = [
            outcome_of(item, error) for item in partitions if item.offset >= 0 or item.error
        ]
        self._guard.run(lambda: self._listener.on_commit(outcomes))

    def _on_error(self, error: ck.KafkaError) -> None:
        self._guard.run(lambda: self._sort(translate(error)))

    def _on_statistics(self, text: str) -> None:
        if self._joined:
            return
        self._sign = self._watch.read(text)
        self._joined = self._sign is JoinSign.JOINED

    def _sort(self, error: BrokerError) -> None:
        if isinstance(error, GroupProtocolUnsupported):
            self._unsupported = error
        elif isinstance(error, BrokerFatal):
            self._fatal = error
        else:
            self._listener.on_error(error)

    # -- polling

    def poll_batch(self, max_messages: int, timeout_seconds: float) -> list[Record]:
        records: list[Record] = []
        try:
            first = self._consumer.poll(timeout_seconds)
            self._take(first, records)
            if first is not None and max_messages > 1:
                for message in self._consumer.consume(max_messages - 1, 0):
                    self._take(message, records)
        except Exception as exc:
            raise PollInterrupted(records, raised_or_same(exc)) from exc
        self._guard.check(records)
        self._check_client()
        return records

    def _take(self, message: ck.Message | None, records: list[Record]) -> None:
        if message is None:
            return
        error = message.error()
        if error is None:
            records.append(record_of(message))
            return
        if error.code() == ck.KafkaError._PARTITION_EOF:
            self._reached[TopicPartition(str(message.topic()), partition_of(message))] = int(
                message.offset() or 0
            )
            return
        told = translate(error, message.topic() or "", partition_of(message))
        self._guard.run(lambda: self._sort(told))

    def _check_client(self) -> None:
        if self._fatal is not None:
            raise self._fatal
        if self._protocol == "consumer" and not self._joined:
            self._judge_silence()
        error, self._unsupported = self._unsupported, None
        if error is None or self._protocol == "classic":
            return
        fall_back(self._config, error)
        self._renew("classic")

    def _judge_silence(self) -> None:
        """Find out whether the client asks nothing of its coordinator for want of the topic.

        librdkafka takes part in no group for a topic that is not there, and looks again only after
        long. A client made when the topic was there already has no such excuse.
        """
        sign, self._sign = self._sign, JoinSign.WAITING
        if self._is_topic_known:
            if sign is JoinSign.SILENT:
                self._unsupported = GroupProtocolUnsupported(NOT_OFFERED)
        elif sign in (JoinSign.IDLE, JoinSign.SILENT) and self._look_for_topic():
            self._renew("consumer")

    def _look_for_topic(self) -> bool:
        try:
            self.partition_count(self._config.topic, TOPIC_TIMEOUT_SECONDS)
        except BrokerError as exc:
            logger.debug("topic not seen: %s", exc)
        else:
            self._is_topic_known = True
        return self._is_topic_known

    def _renew(self, protocol: str) -> None:
        """Another client in place of one that never joined."""
        self._consumer.close()
        self._fetched.clear()
        self._reached.clear()
        self._protocol, self._joined = protocol, False
        self._watch = JoinWatch()
        self._join()

    # -- assignment

    def assign(self, starts: Mapping[TopicPartition, int | Start]) -> None:
        self._call(
            lambda: self._consumer.incremental_assign(
                [
                    ck.TopicPartition(*key, _LOGICAL[start] if isinstance(start, Start) else start)
                    for key, start in starts.items()
                ]
            )
        )
        self._fetched.update(starts)

    def unassign(self, partitions: Sequence[TopicPartition]) -> None:
        mine = [key for key in partitions if key in self._fetched]
        if mine:
            self._release(mine)

    def pause(self, partitions: Sequence[TopicPartition]) -> None:
        self._call(lambda: self._consumer.pause(bare(partitions)))

    def resume(self, partitions: Sequence[TopicPartition]) -> None:
        self._call(lambda: self._consumer.resume(bare(partitions)))

    def seek(self, topic_partition: TopicPartition, offset: int) -> None:
        self._reached.pop(topic_partition, None)
        self._call(lambda: self._consumer.seek(ck.TopicPartition(*topic_partition, offset)))

    def position(self, topic_partition: TopicPartition) -> int | None:
        (found,) = self._call(lambda: self._consumer.position(bare([topic_partition])))
        return found.offset if found.offset >= 0 else None

    def reached(self, topic_partition: TopicPartition) -> int | None:
        return self._reached.get(topic_partition)

    # -- offsets

    def store(self, topic_partition: TopicPartition, next_offset: int, metadata: str) -> None:
        # One at a time: a revoked partition in a list with an owned one raises nothing.
        item = ck.TopicPartition(*topic_partition, next_offset, metadata=metadata)
        self._call(lambda: self._consumer.store_offsets(offsets=[item]))

    def commit_async(self) -> None:
        try:
            self._consumer.commit(asynchronous=True)
        except ck.KafkaException as exc:
            if exc.args[0].name() != "_NO_OFFSET":
                raise raised(exc) from exc

    def commit_explicit(self, offsets: Mapping[TopicPartition, CommittedOffset]) -> None:
        items = [
            ck.TopicPartition(
                *key,
                ck.OFFSET_INVALID if item.offset is None else item.offset,
                metadata=item.metadata,
            )
            for key, item in offsets.items()
        ]
        self._call(lambda: self._consumer.commit(offsets=items, asynchronous=True))

    def committed(
        self, partitions: Sequence[TopicPartition], timeout_seconds: float
    ) -> dict[TopicPartition, CommittedOffset]:
        found = self._call(
            lambda: self._consumer.committed(bare(partitions), timeout=timeout_seconds)
        )
        for item in found:
            if item.error is not None:
                raise translate(item.error, item.topic, item.partition)
        return {
            key_of(item): CommittedOffset(
                item.offset if item.offset >= 0 else None, item.metadata or ""
            )
            for item in found
        }

    def cached_watermarks(self, topic_partition: TopicPartition) -> Watermarks | None:
        found = self._call(
            lambda: self._consumer.get_watermark_offsets(
                ck.TopicPartition(*topic_partition), cached=True
            )
        )
        return None if found is None or found[1] < 0 else Watermarks(max(0, found[0]), found[1])

    # -- any thread: by a client of its own, because a consumer is one lock

    def end_offsets(
        self, partitions: Sequence[TopicPartition], timeout_seconds: float
    ) -> dict[TopicPartition, int]:
        latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
        return self._list_offsets(partitions, latest, timeout_seconds)

    def begin_offsets(
        self, partitions: Sequence[TopicPartition], timeout_seconds: float
    ) -> dict[TopicPartition, int]:
        earliest = OffsetSpec.earliest()  # type: ignore[no-untyped-call]
        return self._list_offsets(partitions, earliest, timeout_seconds)

    def offset_at(
        self, topic_partition: TopicPartition, timestamp_ms: int, timeout_seconds: float
    ) -> int:
        spec = OffsetSpec.for_timestamp(timestamp_ms)
        found = self._list_offsets([topic_partition], spec, timeout_seconds)[topic_partition]
        if found >= 0:
            return found
        return self.end_offsets([topic_partition], timeout_seconds)[topic_partition]

    def _list_offsets(
        self, partitions: Sequence[TopicPartition], spec: Any, timeout_seconds: float
    ) -> dict[TopicPartition, int]:
        if not partitions:
            return {}
        # The admin client learns only by list_topics (partition_count) that a broker's restart
        # gave its partitions new leader epochs; until then it meets FENCED_LEADER_EPOCH.
        futures = self._call(
            lambda: self._admin_client().list_offsets(
                dict.fromkeys(bare(partitions), spec),
                isolation_level=isolation_of(self._config.client),
                request_timeout=timeout_seconds,
            )
        )
        try:
            return {
                key_of(item): self._call(functools.partial(future.result, timeout_seconds)).offset
                for item, future in futures.items()
            }
        except TimeoutError as exc:
            raise BrokerUnavailable("offsets were not told in time", "_TIMED_OUT") from exc

    def partition_count(self, topic: str, timeout_seconds: float) -> int:
        found = self._call(
            lambda: self._admin_client().list_topics(topic, timeout=timeout_seconds)
        ).topics.get(topic)
        if found is None or not found.partitions:
            raise TopicMissing(f"topic {topic} does not exist on {self._config.brokers}")
        return len(found.partitions)

    def _admin_client(self) -> AdminClient:
        with self._admin_lock:
            if self._admin is None:
                self._admin = AdminClient(
                    {
                        **self._config.client,
                        "bootstrap.servers": self._config.brokers,
                        "allow.auto.create.topics": False,
                    },
                    logger=logging.getLogger("drakkar.librdkafka"),
                )
            return self._admin

    def close(self) -> None:
        self._call(self._consumer.close)

    @staticmethod
    def _call(call: Callable[[], Any]) -> Any:
        try:
            return call()
        except ck.KafkaException as exc:
            raise raised(exc) from exc
