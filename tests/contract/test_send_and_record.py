"""``send`` and ``record`` on a real broker: what is written comes back as it was."""

from __future__ import annotations

import io
import json
import stat
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from django.core.management import call_command

from drakkar.testing import load
from integration.services.kafka_mock import RunningMock
from sinks.backends.kafka import TopicWriter
from workers.cluster_choice import named_topic
from workers.config import ClusterConfig


def cluster(brokers: str, topic: str) -> ClusterConfig:
    return ClusterConfig.model_validate(
        {
            "handler": "a:B",
            "kafka": {"topic": topic, "group": "g", "brokers": brokers},
            "sinks": {"out": {"kind": "kafka", "topic": f"{topic}-out", "brokers": "far:9092"}},
        }
    )


@pytest.fixture
def topic(kafka_mock: RunningMock, settings: Any) -> str:
    """A topic of cluster ``main``, with two partitions."""
    name = f"sent-{uuid4().hex[:8]}"
    kafka_mock.create_topic(name, 2)
    settings.DRAKKAR = SimpleNamespace(clusters={"main": cluster(kafka_mock.brokers, name)})
    return name


def send(*words: str, **options: Any) -> list[str]:
    out = io.StringIO()
    call_command("send", *words, stdout=out, **options)
    return out.getvalue().splitlines()


def record(topic: str, path: Path, **options: Any) -> list[dict[str, Any]]:
    call_command("record", topic, str(path), stdout=io.StringIO(), **options)
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_message_that_is_sent_can_be_recorded(topic: str, tmp_path: Path) -> None:
    said = send(topic, '{"a": "ä"}', key="k", header=["x=y=z"], partition=1)
    assert said == [f"stored as {topic}:1:0"]
    path = tmp_path / "messages.jsonl"
    (line,) = record(topic, path)
    assert line.pop("timestamp_ms") > 0
    assert line == {
        "topic": topic,
        "partition": 1,
        "offset": 0,
        "key": "k",
        "value": '{"a": "ä"}',
        "headers": [{"name": "x", "value": "y=z"}],
    }
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_what_is_no_text_comes_back_by_its_bytes(
    topic: str, kafka_mock: RunningMock, tmp_path: Path
) -> None:
    strange = b"\xff\x00"
    writer = TopicWriter(topic=topic, brokers=kafka_mock.brokers, client={}, timeout_seconds=10)
    whole = {"key": strange, "value": strange, "headers": [("h", strange), ("n", None)]}
    empty: dict[str, Any] = {"key": None, "value": None, "headers": []}
    writer.write([{**one, "partition": 0} for one in (whole, empty)])
    (line, _) = record(topic, tmp_path / "m")
    assert line["value_base64"] == line["key_base64"] == "/wA="
    assert "value" not in line
    first, second = load(tmp_path / "m")
    assert (first.key, first.value, list(first.headers)) == (
        strange, strange, [("h", strange), ("n", None)],
    )  # fmt: skip
    assert (second.key, second.value, list(second.headers)) == (None, None, [])


def test_the_last_messages_are_recorded_wherever_they_are(topic: str, tmp_path: Path) -> None:
    for number in range(4):
        send(topic, str(number), partition=0)
    send(topic, "9", partition=1)
    last = [line["value"] for line in record(topic, tmp_path / "m", count=3)]
    assert last == ["2", "3", "9"]
    only = [line["value"] for line in record(topic, tmp_path / "m", count=3, partition=0)]
    assert only == ["1", "2", "3"]


def test_a_line_of_standard_input_is_a_message(
    topic: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = io.TextIOWrapper(io.BytesIO(b'{"n": 1}\n\n{"n": 2}\r\n'))
    monkeypatch.setattr("sys.stdin", lines)
    assert len(send(topic, "-", partition=0)) == 2
    assert [line["value"] for line in record(topic, tmp_path / "m")] == ['{"n": 1}', '{"n": 2}']


def test_text_is_sent_as_it_is_only_when_it_is_asked_for(
    topic: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        send(topic, "{broken")
    assert ended.value.code == 2
    assert "message 1: expected JSON, got" in capsys.readouterr().err
    send(topic, "{broken", text=True)
    assert [line["value"] for line in record(topic, tmp_path / "m")] == ["{broken"]


@pytest.mark.parametrize(
    ("words", "options", "said"),
    [
        (["{}"], {"header": ["novalue"]}, "--header: expected NAME=VALUE, got 'novalue'"),
        (["{}"], {"partition": -1}, "--partition: expected 0 or more, got -1"),
        (["{}"], {"cluster": "no"}, "--cluster: expected one of main, got 'no'"),
    ],
)
def test_bad_use_is_named_before_anything_is_sent(
    topic: str, words: list[str], options: Any, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        send(topic, *words, **options)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_a_topic_that_is_not_there_is_named_with_its_brokers(
    topic: str, kafka_mock: RunningMock, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        send("nowhere", "{}")
    assert ended.value.code == 1
    assert kafka_mock.brokers in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        record("nowhere", tmp_path / "m")
    assert ended.value.code == 2
    assert f"got 'nowhere' at {kafka_mock.brokers}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"count": 0}, "--count: expected 1 to 5,000, got 0"),
        ({"partition": 2}, "--partition: expected 0 to 1, got 2"),
    ],
)
def test_what_cannot_be_recorded_is_named(
    topic: str, options: Any, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        record(topic, tmp_path / "m", **options)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "m").exists()


def test_a_topic_is_looked_for_where_the_configuration_has_it(topic: str, settings: Any) -> None:
    assert named_topic(f"{topic}-out", None).brokers == "far:9092"
    assert named_topic("other", None).brokers == cluster_brokers(settings)
    settings.DRAKKAR.clusters["second"] = cluster("second:9092", "own")
    assert named_topic("own", None).brokers == "second:9092"
    assert named_topic("other", "second").brokers == "second:9092"
    with pytest.raises(SystemExit):
        named_topic("other", None)


def cluster_brokers(settings: Any) -> str:
    return str(settings.DRAKKAR.clusters["main"].kafka.brokers)
