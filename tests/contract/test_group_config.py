"""The group's timeouts on a real Apache Kafka: set where given, refused outside its bounds."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from tests.support.pipeline import new_cluster, running
from tests.support.services import require
from workers.broker.base import (
    BrokerError,
    CommitOutcome,
    GroupConfig,
    GroupConfigRefused,
    TopicPartition,
)
from workers.broker.kafka import KafkaBroker
from workers.broker.memory import MemoryBroker
from workers.runtime.worker import Worker


class Deaf:
    """Hears nothing: these tests never get as far as a rebalance."""

    def on_assign(self, partitions: Sequence[TopicPartition]) -> None:
        """Nothing."""

    on_revoke = on_lost = on_assign

    def on_commit(self, outcomes: Sequence[CommitOutcome]) -> None:
        """Nothing."""

    def on_error(self, error: BrokerError) -> None:
        """Nothing."""


def config(brokers: str, session_timeout_ms: int) -> GroupConfig:
    return GroupConfig(
        brokers=brokers, topic="t", group="bounds", session_timeout_ms=session_timeout_ms
    )


def test_apache_kafka_refuses_a_timeout_outside_its_bounds(
    request: pytest.FixtureRequest,
) -> None:
    require("apache")
    server: Any = request.getfixturevalue("kafka_apache")
    with pytest.raises(GroupConfigRefused) as refused:
        KafkaBroker(config(server.brokers, 1)).open(Deaf())
    text = str(refused.value)
    assert "kafka.session_timeout_ms" in text
    assert "consumer.session.timeout.ms=1" in text
    broker = KafkaBroker(config(server.brokers, 50_000))
    broker.open(Deaf())
    broker.close()


def test_a_refused_group_config_ends_the_worker_as_bad_configuration(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(self: MemoryBroker, listener: object) -> None:
        raise GroupConfigRefused("kafka.session_timeout_ms: out of bounds", "INVALID_CONFIG")

    monkeypatch.setattr(MemoryBroker, "open", refuse)

    async def scenario() -> None:
        async with running(new_cluster()) as live:
            async with asyncio.timeout(20):
                assert await live.done == Worker.BAD_CONFIG

    asyncio.run(scenario())
