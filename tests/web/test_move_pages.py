"""Rewind and skip on the confirm page: in numbers first, and only where they may be asked for."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from confluent_kafka import Producer
from django.test import Client
from pytest_django import Settings

from integration.services.kafka_mock import RunningMock
from tests.support.reading import read_page
from tests.web.conftest import MakeRun
from tests.web.test_control_pages import KEY, figures_of
from workers.config import ClusterConfig
from workers.models import ControlRequest

pytestmark = pytest.mark.django_db


@pytest.fixture
def topic(kafka_mock: RunningMock, settings: Settings) -> str:
    """The source topic of cluster main: ten messages, a second apart, in partition 0."""
    name = f"moved-{uuid4().hex[:8]}"
    kafka_mock.create_topic(name, 1)
    producer = Producer({"bootstrap.servers": kafka_mock.brokers})
    for n in range(10):
        at = 1_700_000_000_000 + n * 1000
        producer.produce(name, partition=0, value=b"x", timestamp=at)
    assert producer.flush(20) == 0
    config = ClusterConfig.model_validate(
        {
            "handler": "tests.support.pipeline:ShellHandler",
            "kafka": {"brokers": kafka_mock.brokers, "topic": name, "group": "g"},
            "sinks": {"out": {"kind": "memory"}},
        }
    )
    settings.DRAKKAR = SimpleNamespace(clusters={"main": config})
    return name


def asked(topic: str, action: str = "rewind_partition", **more: str) -> dict[str, str]:
    return {"action": action, "cluster": "main", "topic": topic, "partition": "0", **more}


def resting(topic: str, **figures: Any) -> dict[str, Any]:
    return {
        "topic": topic, "partition": 0, "state": "paused", "committed": 7, "pending": 0, **figures
    }  # fmt: skip


def test_a_rewind_is_shown_in_numbers_and_asked_with_the_commit_it_was_shown_for(
    operator: Client, make_run: MakeRun, topic: str
) -> None:
    make_run(partitions=[resting(topic)])
    first = read_page(operator.get("/control/new", asked(topic)))
    assert figures_of(first) == {
        "committed offset now": "7",
        "first offset that the topic holds": "0",
        "end offset": "10",
    }
    assert 'method="post" action="/control/new' not in first
    page = read_page(operator.get("/control/new", asked(topic, offset="4")))
    figures = figures_of(page)
    assert figures["offsets run again, of which some may hold no message"] == "3"
    assert figures["the offset that is read next"] == "4"
    sent = dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', page))
    assert (sent["offset"], sent["expected"]) == ("4", "7")
    operator.post("/control/new", sent)
    row = ControlRequest.objects.get()
    place = {"topic": topic, "partition": 0, "offset": 4, "expected": 7}
    assert (row.action, row.worker, row.arguments) == ("rewind_partition", "worker-1", place)


def test_a_bad_message_for_which_the_partition_is_parked_can_be_skipped(
    operator: Client, make_run: MakeRun, topic: str
) -> None:
    parked = {"state": "parked", "parked": {"parse_error": "offset 7: not JSON"}}
    resting_all = {"is_paused": True, "pending": 3, "resting": 3}
    make_run(partitions=[resting(topic, **parked, **resting_all)])
    page = read_page(operator.get(f"/partitions/main/{topic}/0"))
    assert "action=skip_partition" in page
    assert "action=resume_partition" in page
    assert "and paused" in page
    given = {**asked(topic), "action": "skip_partition", "offset": "8"}
    page = read_page(operator.get("/control/new", given))
    assert figures_of(page)["offsets are passed over, with the fate skipped"] == "1"
    assert 'method="post" action="/control/new' in page


def test_a_time_is_turned_into_the_offset_that_is_asked_for(
    operator: Client, make_run: MakeRun, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The broker in memory knows no times: the real one answers in the contract test.
    place = "workers.control_plane.pages.move_preview.offset_at"
    monkeypatch.setattr(place, lambda named, partition, at: (at - 1_700_000_000_000) // 1000)
    make_run(partitions=[resting(topic)])
    page = read_page(operator.get("/control/new", asked(topic, time="2023-11-14T22:13:22")))
    assert figures_of(page)["the offset that is read next"] == "2"
    assert 'type="hidden" name="offset" value="2"' in page
    assert 'type="hidden" name="time"' not in page


@pytest.mark.parametrize(
    ("figures", "more", "told"),
    [
        ({"state": "running"}, {"offset": "4"}, "not paused: pause the partition first"),
        ({"is_paused": False}, {"offset": "4"}, "pause the partition itself first"),
        ({"pending": 3}, {"offset": "4"}, "not drained: 3 of its messages are worked on"),
        ({"pending": 3, "resting": 2}, {"offset": "4"}, "not drained: 1 of its messages are"),
        (
            {"state": "parked", "is_paused": False, "pending": 3, "resting": 3},
            {"offset": "4"},
            "it is parked, not paused",
        ),
        ({"committed": None}, {"offset": "4"}, "its committed offset is unknown"),
        ({}, {"offset": "7"}, "offset: expected 0 to 6, got 7"),
        ({}, {"offset": "x"}, "offset: expected a whole number"),
        ({}, {"offset": "1", "time": "2026-01-01T00:00"}, "expected one of them, got both"),
        ({}, {"time": "yesterday"}, "time: expected a time like"),
        ({}, {"offset": "11", "action": "skip_partition"}, "offset: expected 8 to 10, got 11"),
        (
            {"committed": 10},
            {"offset": "11", "action": "skip_partition"},
            "there is nothing ahead of the commit to skip",
        ),
    ],
)
def test_what_would_be_refused_is_said_and_cannot_be_sent(
    operator: Client,
    make_run: MakeRun,
    topic: str,
    figures: dict[str, Any],
    more: dict[str, str],
    told: str,
) -> None:
    make_run(partitions=[resting(topic, **figures)])
    answer = operator.get("/control/new", {**asked(topic), **more})
    assert answer.status_code == 409
    page = read_page(answer).replace("&#x27;", "'")
    assert told in page
    assert 'method="post" action="/control/new' not in page


def test_an_offset_out_of_bounds_is_given_no_number_of_messages(
    operator: Client, make_run: MakeRun, topic: str
) -> None:
    make_run(partitions=[resting(topic)])
    page = read_page(operator.get("/control/new", asked(topic, offset="300")))
    assert figures_of(page)["offsets run again, of which some may hold no message"] == "unknown"


def test_a_time_of_the_retry_topic_is_looked_up_there(
    operator: Client,
    make_run: MakeRun,
    topic: str,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = settings.DRAKKAR.clusters["main"]
    retry = config.retry.model_copy(update={"topic": f"{topic}-retry"})
    of = SimpleNamespace(clusters={"main": config.model_copy(update={"retry": retry})})
    settings.DRAKKAR = of
    asked_of = []

    def offset_at(named: Any, partition: int, at: int) -> int:
        asked_of.append((named.topic, partition))
        return 2

    monkeypatch.setattr("workers.control_plane.pages.move_preview.offset_at", offset_at)
    make_run(partitions=[resting(f"{topic}-retry")])
    given = asked(f"{topic}-retry", time="2023-11-14T22:13:22")
    page = read_page(operator.get("/control/new", given))
    assert figures_of(page)["the offset that is read next"] == "2"
    assert asked_of == [(f"{topic}-retry", 0)]


@pytest.mark.parametrize("partition", ["", "x", "²", "9" * 400])
def test_a_bad_partition_of_a_named_worker_is_said(
    operator: Client, make_run: MakeRun, topic: str, partition: str
) -> None:
    make_run(partitions=[resting(topic)])
    given = {**asked(topic, time="2023-11-14T22:13:22"), "partition": partition}
    answer = operator.get("/control/new", {**given, "worker": "worker-1"})
    assert answer.status_code in (400, 409)
    assert "partition: " in read_page(answer)


@pytest.mark.usefixtures("kafka_has_half_a_second")
def test_kafka_away_is_said(
    operator: Client, make_run: MakeRun, topic: str, settings: Settings
) -> None:
    config = settings.DRAKKAR.clusters["main"]
    away = config.model_copy(update={"kafka": config.kafka.model_copy(
        update={"brokers": "127.0.0.1:1"})})  # fmt: skip
    settings.DRAKKAR = SimpleNamespace(clusters={"main": away})
    make_run(partitions=[resting(topic)])
    answer = operator.get("/control/new", asked(topic, offset="4"))
    assert answer.status_code == 409
    assert "127.0.0.1:1" in read_page(answer)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"offset": 1}, "expected: Field required"),
        ({"expected": 3}, "offset or time: expected one of them"),
        ({"expected": 3, "offset": 1, "time": "2026-01-01T00:00:00Z"}, "expected one of them"),
        ({"expected": 3, "time": "2026-01-01T00:00:00"}, "time: Input should have timezone"),
        ({"expected": 3, "offset": -1}, "offset: "),
    ],
)
def test_the_api_names_what_is_wrong_with_a_move(
    operator: Client, make_run: MakeRun, arguments: dict[str, Any], told: str
) -> None:
    make_run(partitions=[resting("t")])
    body = {"cluster": "main", "action": "rewind_partition", "key": KEY}
    place = {"topic": "t", "partition": 0, **arguments}
    answer = operator.post(
        "/api/v1/control", {**body, "arguments": place}, content_type="application/json"
    )
    assert answer.status_code == 422
    assert told in read_page(answer)
    assert not ControlRequest.objects.exists()


def test_the_buttons_stand_where_the_partition_is_paused(
    operator: Client, make_run: MakeRun
) -> None:
    make_run(partitions=[resting("t"), {**resting("t"), "partition": 1, "state": "running"}])
    has = [b"action=rewind_partition" in operator.get(f"/partitions/main/t/{n}").content
           for n in (0, 1)]  # fmt: skip
    assert has == [True, False]
