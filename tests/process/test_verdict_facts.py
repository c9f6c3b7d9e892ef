"""What the verdict reads: from the lowest record there is, and never without saying so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from integration.demo.clusters import CLUSTERS, FAST, KAFKA, LETTERS_TOPIC, MAIN
from integration.demo.kafka import create_topics
from integration.services.kafka_apache import RunningKafka
from integration.services.kafka_mock import RunningMock
from integration.verdict import __main__ as verdict
from integration.verdict.case import LETTERS, Fault
from integration.verdict.events import PASSED_OVER, letter_rows
from integration.verdict.facts import (
    DELIVERY_ID,
    FactsMissing,
    Topics,
    Unreadable,
    faults_of,
    letter_of,
    receiver_faults_of,
    result_of,
    silences_of,
)
from integration.verdict.owners import Silence
from workers.pipeline.partition import SETTLED_BEFORE

Headers = list[tuple[str, str | bytes | None]]
ID = b"main/search-requests/3/7/1/0/collect/0"


def test_a_fault_keeps_its_workers_name_and_belongs_to_its_cluster(tmp_path: Path) -> None:
    path = tmp_path / "faults.jsonl"
    rows = [
        {"at": 1.0, "kind": "kill", "worker": "worker-2", "orphans": 0},
        {"at": 2.0, "kind": "stop", "worker": "fast-worker-1", "orphans": 1},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert list(faults_of(path, MAIN)) == [Fault(at=1.0, kind="kill", worker="worker-2")]
    (found,) = faults_of(path, FAST)
    assert (found.worker, found.orphans) == ("fast-worker-1", 1)


def test_a_message_that_an_heir_passes_over_is_known_by_the_products_own_words() -> None:
    assert PASSED_OVER == SETTLED_BEFORE


def test_a_fault_of_a_server_is_its_sinks(tmp_path: Path) -> None:
    path = tmp_path / "faults.jsonl"
    kinds = {1.0: "freeze", 2.0: "thaw", 3.0: "stop", 4.0: "start", 5.0: "stop"}
    rows = [{"at": at, "kind": kind, "worker": "mongo", "orphans": 0} for at, kind in kinds.items()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    away = [(1.0, 2.0), (3.0, 4.0), (5.0, float("inf"))]
    assert receiver_faults_of(path, MAIN) == {"archive": away}
    assert receiver_faults_of(path, FAST) == {}
    assert list(faults_of(path, MAIN)) == []


def test_an_absence_of_kafka_is_one_fault_of_all_workers_of_both_clusters(tmp_path: Path) -> None:
    path = tmp_path / "faults.jsonl"
    kinds = {1.0: "freeze", 2.0: "thaw", 3.0: "stop", 9.0: "start", 11.0: "freeze"}
    rows = [{"at": at, "kind": kind, "worker": KAFKA, "orphans": 0} for at, kind in kinds.items()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    away = [(1.0, 2.0), (3.0, 9.0), (11.0, float("inf"))]
    for cluster in CLUSTERS:
        assert receiver_faults_of(path, cluster) == {cluster.results: away, LETTERS: away}
        assert list(faults_of(path, cluster)) == [
            Fault(at=at, kind="away", worker=KAFKA, until=until) for at, until in away
        ]
    assert silences_of(path) == [Silence(worker="", began=at, until=until) for at, until in away]


def test_a_missing_or_torn_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "faults.jsonl"
    with pytest.raises(FactsMissing, match=r"faults\.jsonl: missing; only a demo started with"):
        list(faults_of(path, MAIN))
    path.write_text('{"at": 1')
    with pytest.raises(FactsMissing, match=r"faults\.jsonl, line 1: not JSON"):
        list(faults_of(path, MAIN))


def test_records_without_identity_are_noted(kafka_mock: RunningMock) -> None:
    kafka_mock.create_topic("unreadable", 1)
    producer = Producer({"bootstrap.servers": kafka_mock.brokers})
    good: Headers = [(DELIVERY_ID, ID)]
    records: list[tuple[bytes, Headers]] = [
        (b'{"match_count": 3}', good),
        (b'{"match_count": 3}', []),
        (b'{"match_count": 3}', [(DELIVERY_ID, b"nonsense")]),
        (b"not JSON", good),
        (b"[]", good),
    ]
    for value, headers in records:
        producer.produce("unreadable", value, b"key", 0, headers=headers)
    assert producer.flush(10) == 0
    topics = Topics(kafka_mock.brokers, "judge")
    unreadable = Unreadable()
    (result,) = unreadable.sift(topics.read("unreadable"), result_of)
    assert (result.source, result.count) == ((3, 7), 3)
    offsets = [text.partition(":")[0] for text in unreadable.found]
    assert offsets == [f"unreadable/0/{offset}" for offset in (1, 2, 3, 4)]
    assert "drakkar-delivery-id" in unreadable.found[0]
    assert unreadable.sift(topics.read("unreadable"), letter_of) == [], "no letter among them"


def test_reading_starts_at_the_lowest_record_there_is(kafka_apache: RunningKafka) -> None:
    create_topics(kafka_apache.brokers, ["trimmed"], 2)
    producer = Producer({"bootstrap.servers": kafka_apache.brokers})
    for number in range(6):
        producer.produce("trimmed", str(number), partition=number % 2)
    assert producer.flush(20) == 0
    admin = AdminClient({"bootstrap.servers": kafka_apache.brokers})
    cut = [TopicPartition("trimmed", 0, 2), TopicPartition("trimmed", 1, 3)]
    for done in admin.delete_records(cut).values():
        done.result(10)
    topics = Topics(kafka_apache.brokers, "judge")
    assert topics.bounds("trimmed") == {0: (2, 3), 1: (3, 3)}
    assert [message.value() for message in topics.read("trimmed")] == [b"4"]
    unreadable = Unreadable()
    unreadable.note_missing("trimmed", topics.bounds("trimmed"))
    assert unreadable.found == [
        "trimmed/0: the records below 2 are gone",
        "trimmed/1: the records below 3 are gone",
    ]


def test_a_run_that_kept_no_facts_gets_no_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["verdict", "--database-url", "postgresql://127.0.0.1:1/none", "--run", str(tmp_path)]
    argv += ["--brokers", "127.0.0.1:1", "--redis-url", "redis://127.0.0.1:1"]
    argv += ["--mongo-uri", "mongodb://127.0.0.1:1"]
    monkeypatch.setattr("sys.argv", argv)
    assert verdict.main() == 2
    assert "no verdict" in capsys.readouterr().err


class Answers:
    """A database whose table of letters grows."""

    def __init__(self, *counts: int) -> None:
        self._counts = list(counts)

    def execute(self, query: str, wanted: list[str]) -> Answers:
        """The next count is the answer to the question for this cluster's letters."""
        assert wanted == [MAIN.name, LETTERS_TOPIC]
        return self

    def fetchall(self) -> list[tuple[int]]:
        """One row."""
        return [(self._counts.pop(0),)]


def test_rows_of_letters_are_awaited_but_not_for_ever() -> None:
    assert letter_rows(cast("Any", Answers(0, 1, 3)), MAIN.name, 2) == 3
    assert letter_rows(cast("Any", Answers(0)), MAIN.name, 2, seconds=0.0) == 0
