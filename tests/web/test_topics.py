"""The topics page on the mock of Kafka: what is read, what is refused, and Kafka away."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from django.contrib.auth.models import Group, User
from django.test import Client
from django.urls import reverse
from pytest_django import Settings

from integration.services.kafka_mock import RunningMock
from tests.support.reading import read_page
from workers.broker.base import BrokerUnavailable
from workers.broker.named_topics import named_topics
from workers.broker.topic_reader import (
    MAX_MESSAGES,
    bounds_of,
    lags_of,
    last_messages,
    messages_from,
)
from workers.config import ClusterConfig

pytestmark = pytest.mark.django_db
GONE = "127.0.0.1:1"


def cluster(brokers: str, topic: str, **kafka: Any) -> ClusterConfig:
    return ClusterConfig.model_validate(
        {
            "handler": "tests.support.pipeline:ShellHandler",
            "kafka": {"brokers": brokers, "topic": topic, "group": f"g-{topic}", **kafka},
            "sinks": {"out": {"kind": "kafka", "topic": f"{topic}-out"}},
        }
    )


@pytest.fixture
def topic(kafka_mock: RunningMock) -> str:
    """A source topic of three partitions with its dead-letter topic; its sink's is not there."""
    name = f"seen-{uuid4().hex[:8]}"
    kafka_mock.create_topic(name, 3)
    kafka_mock.create_topic(f"{name}_dlq", 1)
    return name


@pytest.fixture
def config(kafka_mock: RunningMock, topic: str, settings: Settings) -> ClusterConfig:
    found = cluster(kafka_mock.brokers, topic)
    settings.DRAKKAR = SimpleNamespace(clusters={"main": found})
    return found


@pytest.fixture
def reader(client: Client, user: User) -> Client:
    client.force_login(user)
    return client


def produce(kafka_mock: RunningMock, topic: str, partition: int, *records: dict[str, Any]) -> None:
    producer = Producer({"bootstrap.servers": kafka_mock.brokers})
    for record in records:
        producer.produce(topic, partition=partition, **record)
    assert producer.flush(20) == 0


def test_offsets_and_lag_of_the_group(
    kafka_mock: RunningMock, config: ClusterConfig, topic: str
) -> None:
    produce(kafka_mock, topic, 1, *({"value": b"x"} for _ in range(7)))
    source, letters, out = named_topics(config)
    bounds = bounds_of([source, letters, out])
    assert bounds == {topic: {0: (0, 0), 1: (0, 7), 2: (0, 0)}, f"{topic}_dlq": {0: (0, 0)}}
    assert lags_of(source, config.kafka, bounds[topic]) == {0: 0, 1: 7, 2: 0}
    settings = {"bootstrap.servers": kafka_mock.brokers, "group.id": config.kafka.group}
    consumer = Consumer(settings)
    consumer.commit(offsets=[TopicPartition(topic, 1, 5)], asynchronous=False)
    consumer.close()
    assert lags_of(source, config.kafka, bounds[topic])[1] == 2


def test_the_last_messages_come_whole_and_no_more_than_asked(
    kafka_mock: RunningMock, config: ClusterConfig, topic: str
) -> None:
    headers = [("h", b"1"), ("none", None)]
    produce(kafka_mock, topic, 1, *({"value": str(n).encode()} for n in range(70)))
    produce(kafka_mock, topic, 2, {"value": None, "key": b"k", "headers": headers})
    source = named_topics(config)[0]
    bounds = bounds_of([source])[topic]
    found = last_messages(source, {1: bounds[1]}, 1000).messages
    assert [each.value for each in found] == [str(n).encode() for n in range(69, 19, -1)]
    assert len(found) == MAX_MESSAGES
    both = last_messages(source, bounds, 10).messages
    assert len(both) == 6
    (tombstone,) = (each for each in both if each.partition == 2)
    assert (tombstone.key, tombstone.value, list(tombstone.headers)) == (b"k", None, headers)
    assert last_messages(source, {0: bounds[0]}, 10).messages == []


@pytest.mark.usefixtures("kafka_has_half_a_second")
def test_a_broker_away_is_named_in_time(topic: str) -> None:
    source = named_topics(cluster(GONE, topic))[0]
    began = time.monotonic()
    with pytest.raises(BrokerUnavailable, match=GONE):
        bounds_of([source])
    refused = named_topics(cluster(GONE, topic, client={"no.such.option": "x"}))[0]
    with pytest.raises(BrokerUnavailable, match=r"no\.such\.option"):
        bounds_of([refused])
    assert time.monotonic() - began < 10


def test_the_page_shows_topics_messages_and_groups(
    kafka_mock: RunningMock,
    config: ClusterConfig,
    topic: str,
    reader: Client,
    django_assert_max_num_queries: Any,
) -> None:
    produce(
        kafka_mock, topic, 0,
        {"value": b"<script>alert(1)</script>" + b"y" * 4000, "key": b"the-key",
         "headers": {"h": b"<i>"}},
        {"value": b"\xff\x00\xfe"},
    )  # fmt: skip
    with django_assert_max_num_queries(15):
        page = reader.get("/topics", {"topic": topic, "of": "main", "partition": "0"})
    text = read_page(page)
    assert page.status_code == 200
    assert "&lt;script&gt;alert(1)" in text
    assert "<script>alert" not in text
    assert "first 2 KiB of 4,025 bytes" in text
    assert "ff 00 fe" in text
    assert "the-key" in text
    assert "&lt;i&gt;" in text
    assert "not there" in text
    line = page.context["lines"][0]
    assert (line.lag, line.end, line.kept) == (2, 2, 2)
    assert f"g-{topic}" in text
    assert 'href="/partitions?cluster=main">main' in text


def test_a_tombstone_has_its_headers_and_its_probe(
    kafka_mock: RunningMock, config: ClusterConfig, topic: str, client: Client, user: User
) -> None:
    user.groups.add(Group.objects.get_or_create(name="operator")[0])
    client.force_login(user)
    produce(kafka_mock, topic, 1, {"value": None, "key": b"k", "headers": {"why": b"erased"}})
    text = read_page(client.get("/topics", {"topic": topic, "of": "main"}))
    assert "none (a tombstone)" in text
    assert "<dt>why</dt><dd>erased</dd>" in text
    assert '&amp;at=1:0">Probe this message' in text


def offsets(page: Any) -> list[int]:
    return [each["offset"] for each in page.context["reading"].messages]


def test_messages_from_an_offset_on_and_where_they_go_on(
    kafka_mock: RunningMock, config: ClusterConfig, topic: str, reader: Client
) -> None:
    produce(kafka_mock, topic, 1, *({"value": str(n).encode()} for n in range(30)))
    asked = {"topic": topic, "of": "main", "partition": "1", "last": "10"}
    page = reader.get("/topics", {**asked, "from": "12"})
    assert offsets(page) == list(range(12, 22))
    text = read_page(page)
    assert "from=22" in text.split("Go on at 22")[0].rsplit("<a", 1)[1]
    assert "from=2" in text.split(">Older<")[0].rsplit("<a", 1)[1]
    assert f'href="{reverse("trace", args=[topic, 1, 12])}"' in text
    last = reader.get("/topics", {**asked, "from": "25"})
    assert offsets(last) == [25, 26, 27, 28, 29]
    assert "Go on at" not in read_page(last)
    assert "none from there on" in read_page(reader.get("/topics", {**asked, "from": "30"}))


def test_a_text_is_searched_in_keys_and_values(
    kafka_mock: RunningMock, config: ClusterConfig, topic: str, reader: Client
) -> None:
    far = b"<b>" + b"x" * 3000 + b" Stra\xc3\x9fe <i>end"
    produce(kafka_mock, topic, 0, {"value": b"one"}, {"value": None, "key": b"STRASSE 1"})
    produce(kafka_mock, topic, 1, *({"value": b"other"} for _ in range(60)), {"value": far})
    page = reader.get("/topics", {"topic": topic, "find": "strasse"})
    found = {(one["partition"], one["offset"]) for one in page.context["reading"].messages}
    assert found == {(0, 1), (1, 60)}
    text = read_page(page)
    assert "2 shown of 63 looked at" in text
    assert "Straße &lt;i&gt;end" in text
    asked = {"topic": topic, "partition": "1", "find": "OTHER", "last": "5"}
    assert offsets(reader.get("/topics", asked)) == [59, 58, 57, 56, 55]
    assert offsets(reader.get("/topics", {**asked, "from": "3"})) == [3, 4, 5, 6, 7]
    nothing = read_page(reader.get("/topics", {"topic": topic, "find": "nowhere"}))
    assert "None of those looked at holds the text" in nothing


def test_one_search_looks_at_so_many_messages(
    kafka_mock: RunningMock, config: ClusterConfig, topic: str
) -> None:
    produce(kafka_mock, topic, 1, *({"value": str(n).encode()} for n in range(200)))
    produce(kafka_mock, topic, 2, {"value": b"late"})
    source = named_topics(config)[0]
    bounds = bounds_of([source])[topic]
    found = last_messages(source, bounds, 5, look_at=100, wanted=lambda read: read.partition == 1)
    assert (found.looked_at, found.is_cut) == (51, False)
    assert [each.offset for each in found.messages] == [199, 198, 197, 196, 195]
    first = messages_from(source, {1: 10}, 5, look_at=20, wanted=lambda read: read.offset > 1000)
    assert (first.looked_at, first.messages, first.next_offsets) == (20, [], {1: 30})


def test_a_followed_topic_is_asked_of_alone(
    kafka_mock: RunningMock, config: ClusterConfig, topic: str, reader: Client
) -> None:
    produce(kafka_mock, topic, 0, {"value": b"first"})
    asked = {"topic": topic, "of": "main", "follow": "1"}
    page = reader.get("/topics", asked)
    assert [line.named.topic for line in page.context["lines"]] == [topic]
    assert b'<div id="p-messages" data-waiting>' in page.content
    assert b"poll_panels.js" in page.content
    produce(kafka_mock, topic, 0, {"value": b"second"})
    assert offsets(reader.get("/topics", asked)) == [1, 0]
    still = reader.get("/topics", {"topic": topic, "of": "main"})
    assert b"data-waiting" not in still.content
    assert b"poll_panels.js" not in still.content


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"topic": "__consumer_offsets"}, "topic: expected one that a cluster names"),
        ({"topic": "{topic}", "of": "other"}, "topic: expected one"),
        ({"topic": "{topic}", "partition": "9"}, "partition: expected one of"),
        ({"topic": "{topic}", "partition": "x"}, "partition: expected a whole number, got x"),
        ({"topic": "{topic}", "last": "51"}, "last: expected 1 to 50, got 51"),
        ({"topic": "{topic}", "from": "7"}, "partition: expected one, for offset 7 is of a"),
        (
            {"topic": "{topic}", "partition": "0", "from": "9" * 30},
            "from: expected an offset below",
        ),
        ({"topic": "{topic}", "from": "soon"}, "from: expected an offset, a time like"),
        ({"topic": "{topic}", "find": "x" * 201}, "find: expected at most 200 characters, got 201"),
        ({"topic": "{topic}", "from": "1h", "follow": "1"}, "from: expected none while"),
    ],
)
def test_what_no_cluster_names_is_not_read(
    config: ClusterConfig, topic: str, reader: Client, asked: dict[str, str], said: str
) -> None:
    page = reader.get("/topics", {name: text.format(topic=topic) for name, text in asked.items()})
    assert page.status_code == 400
    assert said in page.context["error"]
    assert page.context["reading"] is None


@pytest.mark.usefixtures("kafka_has_half_a_second")
def test_kafka_away_is_shown(reader: Client, settings: Settings) -> None:
    settings.DRAKKAR = SimpleNamespace(clusters={"main": cluster(GONE, "t")})
    page = reader.get("/topics", {"topic": "t"})
    assert page.status_code == 200
    assert b"Kafka is away" in page.content
    assert b"not all of it answered" in page.content
    assert page.context["lines"][0].kept is None
    assert b"unknown" in page.content
