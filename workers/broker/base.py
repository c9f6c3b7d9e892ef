"""Seam to Kafka: synchronous, driven by the consumer thread only, callbacks included.

BrokerError
+-- BrokerUnavailable         no broker or coordinator can be reached: it may come back
+-- TopicMissing              the topic or partition does not exist (yet)
+-- OffsetOutOfRange          the offset asked for does not exist; the partition stands
+-- FencedError               the member or its epoch is not current: normal in a rebalance
+-- GroupProtocolUnsupported  the brokers do not speak the group protocol asked for
+-- GroupConfigRefused        the group's timeouts are outside the broker's bounds
+-- PollInterrupted           something raised inside a poll: messages may have been skipped
+-- BrokerFatal               the client can do no more: make a new one
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal, NamedTuple, Protocol

from domain.message import Record
from workers.config import KafkaConfig

logger = logging.getLogger("drakkar.broker")


class TopicPartition(NamedTuple):
    """A partition of a topic."""

    topic: str
    partition: int


class BrokerError(Exception):
    """Error that a broker raises or tells. ``code`` is Kafka's name of the error, if it has one."""

    def __init__(self, detail: str, code: str = "") -> None:
        super().__init__(detail)
        self.code = code


class BrokerUnavailable(BrokerError):
    """No broker or coordinator answers: wait and try again."""


class TopicMissing(BrokerError):
    """Raised where topic or partition does not exist: create it, or correct ``kafka.topic``."""


class FencedError(BrokerError):
    """This member, its epoch or its claim is not current any more: normal in a rebalance."""


class GroupProtocolUnsupported(BrokerError):
    """Raised for want of KIP-848: set ``kafka.group_protocol`` to ``auto`` or ``classic``."""


class GroupConfigRefused(BrokerError):
    """Raised for a refused ``session_timeout_ms`` or ``heartbeat_interval_ms``."""


class BrokerFatal(BrokerError):
    """Raised by a client that is unusable from now on."""


class OffsetOutOfRange(BrokerError):
    """A partition has no such offset, or none is committed and none may be chosen."""

    def __init__(self, topic: str, partition: int, detail: str, code: str = "") -> None:
        super().__init__(f"{topic}/{partition}: {detail}", code)
        self.topic_partition = TopicPartition(topic, partition)


class PollInterrupted(BrokerError):
    """Something raised inside a poll. ``records`` were collected; others may have been skipped.

    Hand ``records`` over, then seek every owned partition to the last handed offset + 1.
    """

    def __init__(self, records: Sequence[Record], cause: BaseException) -> None:
        super().__init__(f"{type(cause).__name__}: {cause}", getattr(cause, "code", ""))
        self.records = records


class Start(Enum):
    """Place to start when there is no number. COMMITTED without a commit is out of range."""

    EARLIEST = "earliest"
    LATEST = "latest"
    COMMITTED = "committed"


class CommittedOffset(NamedTuple):
    """Offset that a group committed for a partition; ``offset`` None means nothing yet."""

    offset: int | None
    metadata: str = ""


class Watermarks(NamedTuple):
    """First offset of a partition, and the one its next message will get."""

    low: int
    high: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitOutcome:
    """Answer of the broker to one partition of a commit. An error never proves "not committed"."""

    topic_partition: TopicPartition
    next_offset: int | None
    metadata: str = ""
    error: BrokerError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupConfig:
    """Facts of the consumer group that a broker needs. Times in milliseconds, None: the default."""

    brokers: str
    topic: str
    group: str
    retry_topic: str | None = None
    protocol: Literal["auto", "consumer", "classic"] = "auto"
    client: Mapping[str, Any] = field(default_factory=dict)
    session_timeout_ms: int | None = None
    heartbeat_interval_ms: int | None = None
    max_poll_interval_ms: int = 300_000

    @classmethod
    def from_config(cls, config: KafkaConfig, retry_topic: str | None = None) -> GroupConfig:
        """Return the narrow view of a cluster's ``kafka`` section, and of its ``retry.topic``."""
        return cls(
            brokers=config.brokers,
            topic=config.topic,
            group=config.group,
            retry_topic=retry_topic,
            protocol=config.group_protocol,
            client=dict(config.client),
            session_timeout_ms=config.session_timeout_ms,
            heartbeat_interval_ms=config.heartbeat_interval_ms,
            max_poll_interval_ms=config.max_poll_interval_ms,
        )

    @property
    def topics(self) -> tuple[str, ...]:
        """Topics that a member reads: the source, and the retry topic if there is one."""
        return (self.topic,) if self.retry_topic is None else (self.topic, self.retry_topic)


def fall_back(config: GroupConfig, error: GroupProtocolUnsupported) -> None:
    """Say that ``classic`` is used instead; raises the error unless the protocol is ``auto``."""
    if config.protocol != "auto":
        raise error
    logger.warning("group protocol consumer is not supported (%s): classic instead", error)


class RebalanceListener(Protocol):
    """Listener to a broker, called inside ``poll_batch`` (or ``close``) by the polling thread.

    An exception raised in one of these loses nothing: it ends that poll as ``PollInterrupted``.
    """

    def on_assign(self, partitions: Sequence[TopicPartition]) -> None:
        """These are ours from now on. Must call ``Broker.assign`` for them."""

    def on_revoke(self, partitions: Sequence[TopicPartition]) -> None:
        """These go to another member as soon as this returns. They may still be committed here."""

    def on_lost(self, partitions: Sequence[TopicPartition]) -> None:
        """These belong to somebody else already: nothing of them may be committed."""

    def on_commit(self, outcomes: Sequence[CommitOutcome]) -> None:
        """Return the answer to one commit, asynchronous or explicit."""

    def on_error(self, error: BrokerError) -> None:
        """Something went wrong besides a call; the client itself goes on trying."""


class Broker(Protocol):
    """One member of one consumer group. All calls by one thread, except where it is said."""

    @property
    def joined_protocol(self) -> str | None:
        """Group protocol in force once the group is joined, else None."""

    @property
    def topics(self) -> tuple[str, ...]:
        """Topics that are read, the source first."""

    def open(self, listener: RebalanceListener) -> None:
        """Set the group's config where asked, then join.

        Raises BrokerUnavailable (call again later) and GroupConfigRefused.
        """

    def poll_batch(self, max_messages: int, timeout_seconds: float) -> list[Record]:
        """Serve callbacks, then wait for a first message, then take what is there already.

        Raises PollInterrupted, GroupProtocolUnsupported and BrokerFatal.
        """

    def assign(self, starts: Mapping[TopicPartition, int | Start]) -> None:
        """Begin to fetch these besides those fetched already."""

    def unassign(self, partitions: Sequence[TopicPartition]) -> None:
        """Stop fetching these; those not fetched are passed over."""

    def pause(self, partitions: Sequence[TopicPartition]) -> None:
        """Deliver nothing of these. Stays in force when a partition goes and comes back."""

    def resume(self, partitions: Sequence[TopicPartition]) -> None:
        """Deliver these again."""

    def store(self, topic_partition: TopicPartition, next_offset: int, metadata: str) -> None:
        """Let the next ``commit_async`` say this. Raises FencedError when not assigned."""

    def commit_async(self) -> None:
        """Commit all that was stored and moved forward; the answer comes by ``on_commit``."""

    def commit_explicit(self, offsets: Mapping[TopicPartition, CommittedOffset]) -> None:
        """Commit these very offsets by one request, asynchronously.

        Only the owner may, and past what it stored only to skip. A connection's requests are
        answered in turn: one for each partition would hold the heartbeats back.
        """

    def committed(
        self, partitions: Sequence[TopicPartition], timeout_seconds: float
    ) -> dict[TopicPartition, CommittedOffset]:
        """Return what the group committed, with metadata. Raises BrokerUnavailable."""

    def position(self, topic_partition: TopicPartition) -> int | None:
        """Return the offset after the last one delivered, or None."""

    def reached(self, topic_partition: TopicPartition) -> int | None:
        """Return the end up to which everything was delivered, None: not known to be reached.

        It lies past the last message where what follows is no message: the control records of
        transactions, aborted and compacted messages.
        """

    def seek(self, topic_partition: TopicPartition, offset: int) -> None:
        """Deliver from this offset on. Raises BrokerError when the partition is not fetched."""

    def cached_watermarks(self, topic_partition: TopicPartition) -> Watermarks | None:
        """Return what the last fetch said, without asking the broker."""

    def end_offsets(
        self, partitions: Sequence[TopicPartition], timeout_seconds: float
    ) -> dict[TopicPartition, int]:
        """Ask for the end offsets, without open transactions where the client reads none.

        **Any thread.** Raises BrokerUnavailable and TopicMissing.
        """

    def begin_offsets(
        self, partitions: Sequence[TopicPartition], timeout_seconds: float
    ) -> dict[TopicPartition, int]:
        """Ask for the first offsets. **Any thread.** Raises as ``end_offsets``."""

    def offset_at(
        self, topic_partition: TopicPartition, timestamp_ms: int, timeout_seconds: float
    ) -> int:
        """Ask for the first message at or after a time (UTC epoch milliseconds); the end, if there
        is none. **Any thread.** Raises as ``end_offsets``."""

    def partition_count(self, topic: str, timeout_seconds: float) -> int:
        """Partitions of a topic. **Any thread.** Raises BrokerUnavailable and TopicMissing."""

    def close(self) -> None:
        """Leave the group. May block as long as the broker is away: use a thread to abandon."""


class CallbackGuard:
    """Runs a listener's callbacks so that none raises into the client; keeps the first error."""

    def __init__(self) -> None:
        self._error: Exception | None = None

    def run(self, call: Callable[[], None]) -> None:
        """Run a callback; its exception is kept for ``check``."""
        try:
            call()
        except Exception as exc:  # noqa: BLE001  # raised again by check
            self._error = self._error or exc

    def check(self, records: Sequence[Record]) -> None:
        """Raise PollInterrupted with these records when a callback raised since the last check."""
        error, self._error = self._error, None
        if error is not None:
            raise PollInterrupted(records, error) from error
