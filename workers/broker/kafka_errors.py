"""Our errors for those of confluent-kafka, by Kafka's name of each."""

from __future__ import annotations

import confluent_kafka as ck

from workers.broker.base import (
    BrokerError,
    BrokerFatal,
    BrokerUnavailable,
    FencedError,
    GroupProtocolUnsupported,
    OffsetOutOfRange,
    TopicMissing,
)

_UNAVAILABLE = frozenset(
    [
        "_ALL_BROKERS_DOWN",
        "_TRANSPORT",
        "_RESOLVE",
        "_TIMED_OUT",
        "_TIMED_OUT_QUEUE",
        "_WAIT_COORD",
        "_AUTHENTICATION",
        "_SSL",
        "REQUEST_TIMED_OUT",
        "COORDINATOR_NOT_AVAILABLE",
        "COORDINATOR_LOAD_IN_PROGRESS",
        "NOT_COORDINATOR",
        "BROKER_NOT_AVAILABLE",
        "LEADER_NOT_AVAILABLE",
        "NETWORK_EXCEPTION",
    ]
)
_FENCED = frozenset(
    [
        "UNKNOWN_MEMBER_ID",
        "ILLEGAL_GENERATION",
        "REBALANCE_IN_PROGRESS",
        "STALE_MEMBER_EPOCH",
        "FENCED_MEMBER_EPOCH",
        "_ASSIGNMENT_LOST",
        "_STATE",
        "_FENCED",
        "_UNKNOWN_PARTITION",
    ]
)
_TOPIC = frozenset(["UNKNOWN_TOPIC_OR_PART", "_UNKNOWN_TOPIC", "UNKNOWN_TOPIC_ID"])
_RANGE = frozenset(["_AUTO_OFFSET_RESET", "OFFSET_OUT_OF_RANGE"])
_UNSUPPORTED = frozenset(["UNSUPPORTED_VERSION", "_UNSUPPORTED_FEATURE"])
_UNSUPPORTED_TEXT = ck.KafkaError(ck.KafkaError.UNSUPPORTED_VERSION).str()


def translate(error: ck.KafkaError, topic: str = "", partition: int = -1) -> BrokerError:
    """Our own error for Kafka's, by its code.

    The client tells what ended it as ``_FATAL``: the broker's own error is only in its text.
    """
    code, detail = error.name(), f"{error.str()} ({error.name()})"
    if code in _RANGE:
        return OffsetOutOfRange(topic, partition, detail, code)
    if code in _UNSUPPORTED or (code == "_FATAL" and _UNSUPPORTED_TEXT in detail):
        return GroupProtocolUnsupported(detail, code)
    kinds = ((_UNAVAILABLE, BrokerUnavailable), (_FENCED, FencedError), (_TOPIC, TopicMissing))
    for codes, kind in kinds:
        if code in codes:
            return kind(detail, code)
    is_fatal = error.fatal() or code == "_FATAL"
    return (BrokerFatal if is_fatal else BrokerError)(detail, code)


def raised(exc: ck.KafkaException) -> BrokerError:
    """Our own error for an exception of the client."""
    return translate(exc.args[0])


def raised_or_same(exc: Exception) -> Exception:
    """As ``raised``; what is not the client's stays as it is."""
    return raised(exc) if isinstance(exc, ck.KafkaException) else exc
