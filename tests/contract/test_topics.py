"""Making topics, on Apache Kafka and on the mock that cannot make any."""

from __future__ import annotations

from uuid import uuid4

import pytest

from integration.services.kafka_apache import RunningKafka
from integration.services.kafka_mock import RunningMock
from workers.broker.named_topics import named_topics
from workers.broker.topics import Ensured, TopicsRefused, ensure_topics
from workers.config import ClusterConfig
from workers.management.commands.create_topics import topics_of


def ensured(brokers: str, *topics: str, partitions: int = 3) -> list[Ensured]:
    return ensure_topics(brokers, {}, topics, partitions=partitions, replication=1)


def test_missing_topics_are_made_and_those_there_are_left(kafka_apache: RunningKafka) -> None:
    topic = f"made-{uuid4().hex[:8]}"
    assert ensured(kafka_apache.brokers, topic) == [Ensured(topic=topic, is_new=True, partitions=3)]
    again = ensured(kafka_apache.brokers, topic, partitions=2)
    assert again == [Ensured(topic=topic, is_new=False, partitions=3)]
    with pytest.raises(TopicsRefused, match=f"expected 5 partitions or more, but {topic} has 3"):
        ensured(kafka_apache.brokers, topic, partitions=5)


def test_a_broker_that_cannot_make_topics_is_content_with_what_is_there(
    kafka_mock: RunningMock,
) -> None:
    topic = f"made-{uuid4().hex[:8]}"
    kafka_mock.create_topic(topic, 4)
    assert ensured(kafka_mock.brokers, topic) == [Ensured(topic=topic, is_new=False, partitions=4)]
    with pytest.raises(TopicsRefused, match="other: "):
        ensured(kafka_mock.brokers, "other")


@pytest.mark.usefixtures("kafka_has_half_a_second")
def test_a_broker_away_is_an_error_that_names_it() -> None:
    with pytest.raises(TopicsRefused, match=r"127\.0\.0\.1:1"):
        ensured("127.0.0.1:1", "t")


def test_all_topics_of_a_cluster_are_found_by_their_place() -> None:
    config = ClusterConfig.model_validate(
        {
            "handler": "tests.support.pipeline:ShellHandler",
            "kafka": {"topic": "in", "group": "g", "brokers": "one:1"},
            "sinks": {
                "out": {"kind": "kafka", "topic": "out"},
                "far": {"kind": "kafka", "topic": "far", "brokers": "two:2"},
                "kept": {"kind": "memory"},
            },
        }
    )
    found = [(place.brokers, topics) for place, topics in topics_of(config)]
    assert found == [("one:1", ["in", "in_dlq", "out"]), ("two:2", ["far"])]
    roles = [named.role for named in named_topics(config)]
    assert roles == ["source", "dead letters", "sink out", "sink far"]
