"""``kafka.group_protocol`` where the cluster does not speak ``consumer``."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import confluent_kafka as ck
import pytest

from domain.message import Record
from integration.services import kafka_mock
from integration.services.kafka_mock import RunningMock
from tests.support.pipeline import TOPIC, cluster_config, new_cluster, running
from workers.broker.base import (
    BrokerError,
    BrokerFatal,
    CommitOutcome,
    GroupConfig,
    GroupProtocolUnsupported,
    Start,
    TopicPartition,
)
from workers.broker.kafka import KafkaBroker
from workers.broker.kafka_errors import translate
from workers.broker.kafka_protocol import JoinSign, JoinWatch
from workers.config import ClusterConfig

CONSUMER_GROUP_HEARTBEAT = 68
UNSUPPORTED_VERSION = 35
LOADING = 14
WAIT_SECONDS = 25.0
FALL_BACK = "group protocol consumer is not supported"


class Taker:
    """Fetches what it is given from the beginning."""

    def __init__(self, broker: KafkaBroker) -> None:
        self._broker = broker
        self.errors: list[BrokerError] = []

    def on_assign(self, partitions: Sequence[TopicPartition]) -> None:
        self._broker.assign(dict.fromkeys(partitions, Start.EARLIEST))

    def on_revoke(self, partitions: Sequence[TopicPartition]) -> None:
        """Nothing is kept."""

    on_lost = on_revoke

    def on_commit(self, outcomes: Sequence[CommitOutcome]) -> None:
        """Nothing is committed."""

    def on_error(self, error: BrokerError) -> None:
        self.errors.append(error)


@pytest.fixture
def mock(tmp_path: Path) -> Iterator[RunningMock]:
    with kafka_mock.running(tmp_path / "mock", {"t": 1, "two": 2}) as server:
        yield server


def refuse(mock: RunningMock) -> None:
    """As Kafka 3.7 to 3.9."""
    mock.push_errors(CONSUMER_GROUP_HEARTBEAT, *[UNSUPPORTED_VERSION] * 3)


def not_offer(mock: RunningMock) -> None:
    """As Kafka before 3.7."""
    mock.withdraw(CONSUMER_GROUP_HEARTBEAT)


def opened(
    mock: RunningMock, protocol: Literal["auto", "consumer"], topic: str = "t"
) -> KafkaBroker:
    broker = KafkaBroker(
        GroupConfig(
            brokers=mock.brokers, topic=topic, group="g", protocol=protocol, session_timeout_ms=1500
        )
    )
    broker.open(Taker(broker))
    return broker


def protocol_of(broker: KafkaBroker) -> str | None:
    return broker.joined_protocol


def polled(broker: KafkaBroker, is_over: Callable[[list[Record]], bool]) -> list[Record]:
    found: list[Record] = []
    deadline = time.monotonic() + WAIT_SECONDS
    while not is_over(found):
        assert time.monotonic() < deadline, found
        found += broker.poll_batch(10, 0.1)
    return found


@pytest.mark.parametrize("hinder", [refuse, not_offer])
def test_auto_falls_back_to_classic_and_says_so(
    mock: RunningMock, hinder: Callable[[RunningMock], None], caplog: pytest.LogCaptureFixture
) -> None:
    hinder(mock)
    producer = ck.Producer({"bootstrap.servers": mock.brokers})
    producer.produce("t", b"x", partition=0)
    assert producer.flush(10) == 0
    broker = opened(mock, "auto")
    with caplog.at_level(logging.WARNING):
        (record,) = polled(broker, bool)
    assert record.value == b"x"
    assert broker.joined_protocol == "classic"
    assert caplog.text.count(FALL_BACK) == 1
    broker.close()


@pytest.mark.parametrize("hinder", [refuse, not_offer])
def test_consumer_alone_is_an_error(
    mock: RunningMock, hinder: Callable[[RunningMock], None]
) -> None:
    hinder(mock)
    broker = opened(mock, "consumer")
    with pytest.raises(GroupProtocolUnsupported):
        polled(broker, lambda _: False)
    broker.close()


def load(mock: RunningMock) -> None:
    """The coordinator says for a while that it loads."""
    mock.push_errors(CONSUMER_GROUP_HEARTBEAT, *[LOADING] * 45)


def slow(mock: RunningMock) -> None:
    """The coordinator takes its time for the first answer."""
    mock.delay(CONSUMER_GROUP_HEARTBEAT, 7000)


@pytest.mark.parametrize("hinder", [load, slow])
def test_a_coordinator_that_loads_or_is_slow_is_waited_for(
    mock: RunningMock, caplog: pytest.LogCaptureFixture, hinder: Callable[[RunningMock], None]
) -> None:
    hinder(mock)
    broker = opened(mock, "auto")
    with caplog.at_level(logging.WARNING):
        polled(broker, lambda _: broker.joined_protocol is not None)
    assert broker.joined_protocol == "consumer"
    assert FALL_BACK not in caplog.text
    broker.close()


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["auto", "consumer"])
def test_a_missing_topic_is_waited_for(
    mock: RunningMock, caplog: pytest.LogCaptureFixture, protocol: Literal["auto", "consumer"]
) -> None:
    broker = opened(mock, protocol, topic="late")
    made_at = time.monotonic() + 6.0
    with caplog.at_level(logging.WARNING):
        polled(broker, lambda _: time.monotonic() > made_at)
        assert protocol_of(broker) is None
        mock.create_topic("late", 1)
        polled(broker, lambda _: broker.joined_protocol is not None)
    assert broker.joined_protocol == "consumer"
    assert FALL_BACK not in caplog.text
    broker.close()


@pytest.mark.slow
def test_a_member_that_waits_for_partitions_keeps_its_protocol(
    mock: RunningMock, caplog: pytest.LogCaptureFixture
) -> None:
    first = opened(mock, "auto", topic="two")
    with caplog.at_level(logging.WARNING):
        polled(first, lambda _: first.joined_protocol is not None)
        second = opened(mock, "auto", topic="two")
        over_at = time.monotonic() + 9.0  # several statistics, while the first gives nothing back
        polled(second, lambda _: time.monotonic() > over_at)
        assert protocol_of(second) is None
        while second.joined_protocol is None:
            first.poll_batch(10, 0.1)
            second.poll_batch(10, 0.1)
    assert second.joined_protocol == "consumer"
    assert FALL_BACK not in caplog.text
    first.close()
    second.close()


def said(
    state: str, join_state: str, sent: int | None = None, owed: int = 0, heartbeats: int = 0
) -> str:
    requests = {"ApiVersion": 2, "Metadata": (sent or 0) - heartbeats - 2}
    coordinator = {"state": "UP", "tx": sent, "waitresp_cnt": owed, "req": requests}
    brokers = {} if sent is None else {"GroupCoordinator": coordinator}
    return json.dumps({"cgrp": {"state": state, "join_state": join_state}, "brokers": brokers})


def test_only_a_coordinator_that_nobody_asks_is_silent() -> None:
    def last(*texts: str) -> JoinSign:
        watch = JoinWatch()
        return [watch.read(text) for text in texts][-1]

    assert last(said("up", "init", 6), said("up", "init", 6)) is JoinSign.SILENT
    assert last(said("up", "init", 6)) is JoinSign.WAITING
    assert last(said("up", "init", 6), said("up", "init", 7)) is JoinSign.WAITING
    assert last(said("up", "init"), said("up", "init")) is JoinSign.WAITING
    asked = said("up", "init", 6, heartbeats=1)  # it waits for its assignment
    assert last(asked, asked, asked) is JoinSign.IDLE
    assert last(said("up", "init", 6, 1), said("up", "init", 6, 1)) is JoinSign.WAITING
    assert last(said("up", "init", 6), said("query-coord", "init", 6)) is JoinSign.WAITING
    assert last(said("up", "wait-assign-call", 6), said("up", "wait-assign-call", 6)) is (
        JoinSign.WAITING
    )
    assert last(said("up", "steady", 6)) is JoinSign.JOINED
    assert last("{}") is JoinSign.WAITING


def test_what_ends_the_client_is_fatal() -> None:
    fenced = (
        "Fatal error: Broker: Static consumer fenced by other consumer with same group.instance.id"
    )
    assert type(translate(ck.KafkaError(ck.KafkaError._FATAL, fenced))) is BrokerFatal
    fatal = ck.KafkaError(ck.KafkaError.FENCED_INSTANCE_ID, "fenced", True)
    assert type(translate(fatal)) is BrokerFatal


def classic_only(protocol: str) -> ClusterConfig:
    config = cluster_config()
    kafka = config.kafka.model_copy(update={"group_protocol": protocol})
    return config.model_copy(update={"kafka": kafka})


def test_a_worker_on_auto_works_on_a_cluster_that_is_classic_only(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario() -> None:
        cluster = new_cluster()
        cluster.is_classic_only = True
        cluster.produce(TOPIC, 0, value=b'{"script": "echo x"}')
        async with running(cluster, classic_only("auto")) as live:
            await live.fates(1)
            assert live.broker.joined_protocol == "classic"
            assert await live.stop() == 0
            assert live.committed() == 1

    with caplog.at_level(logging.WARNING):
        asyncio.run(scenario())
    assert caplog.text.count(FALL_BACK) == 1


def test_a_worker_on_consumer_ends_there_as_badly_configured() -> None:
    async def scenario() -> None:
        cluster = new_cluster()
        cluster.is_classic_only = True
        async with running(cluster, classic_only("consumer")) as live:
            assert await live.done == live.worker.BAD_CONFIG

    asyncio.run(scenario())
