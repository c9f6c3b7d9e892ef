"""Configuration of a consumer group at the broker, as KIP-848 keeps its times there."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import confluent_kafka as ck
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from workers.broker.base import BrokerUnavailable, GroupConfig, GroupConfigRefused
from workers.broker.kafka_errors import raised

logger = logging.getLogger("drakkar.broker")

TIMEOUT_SECONDS = 5.0


def set_group_config(admin: AdminClient, config: GroupConfig) -> None:
    """Set the times that are given; a broker that has no such configs keeps its own.

    Raises BrokerUnavailable, and GroupConfigRefused where the values are what is wrong.
    """
    given = {
        "consumer.session.timeout.ms": config.session_timeout_ms,
        "consumer.heartbeat.interval.ms": config.heartbeat_interval_ms,
    }
    entries = [
        ConfigEntry(name, str(value), incremental_operation=AlterConfigOpType.SET)
        for name, value in given.items()
        if value is not None
    ]
    if not entries:
        return
    try:
        _alter(admin, config.group, entries)
    except TimeoutError as exc:
        raise BrokerUnavailable("the group's config could not be set in time") from exc
    except ck.KafkaException as exc:
        _judge(exc, config.group, ", ".join(f"{entry.name}={entry.value}" for entry in entries))


def _alter(admin: AdminClient, group: str, entries: Sequence[ConfigEntry]) -> None:
    resource = ConfigResource(ResourceType.GROUP, group, incremental_configs=list(entries))
    futures = admin.incremental_alter_configs([resource], request_timeout=TIMEOUT_SECONDS)
    for future in futures.values():
        future.result(TIMEOUT_SECONDS + 1)


def _judge(exc: ck.KafkaException, group: str, wanted: str) -> None:
    error = raised(exc)
    if isinstance(error, BrokerUnavailable):
        raise error from exc
    if error.code in ("INVALID_CONFIG", "INVALID_REQUEST", "POLICY_VIOLATION"):
        raise GroupConfigRefused(
            f"kafka.session_timeout_ms, kafka.heartbeat_interval_ms: the broker refuses "
            f"{wanted} for group {group}: {error}",
            error.code,
        ) from exc
    logger.warning("group config not set (%s): %s; the broker's own stand", wanted, error)
