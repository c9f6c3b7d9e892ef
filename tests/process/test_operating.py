"""What operators ask of a real worker beside its work: probes, letters to their sinks, metrics."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg.rows import DictRow, dict_row

from domain.failure import DeadLetterCause, FailureKind, Stage
from domain.message import Message
from domain.payload import KafkaPayload
from sinks.config import DeadLettersConfig
from sinks.dead_letter import kafka_letters
from sinks.letter import LetterStamp, letter_headers
from tests.support.worker_process import CLUSTER, Scene, delivery_ids, until

NAME = "operated"
Database = psycopg.Connection[DictRow]


@pytest.fixture
def database(process_database: str) -> Iterator[Database]:
    with psycopg.connect(process_database, autocommit=True, row_factory=dict_row) as found:
        yield found


def asked(database: Database, action: str, **arguments: Any) -> DictRow:
    """The request once a worker answered it."""
    number = uuid4()
    database.execute(
        "INSERT INTO workers_controlrequest"
        " (id, key, cluster, worker, action, arguments, state, actor, detail)"
        " VALUES (%s, %s, %s, %s, %s, %s, 'requested', 'mara', '')",
        [number, number.hex, CLUSTER, NAME, action, json.dumps(arguments)],
    )

    def answered() -> DictRow | None:
        found = database.execute("SELECT * FROM workers_controlrequest WHERE id = %s", [number])
        row = found.fetchone()
        return row if row and row["state"] in ("done", "failed") else None

    return until(answered, f"an answer to {action}")


def bury(scene: Scene) -> None:
    """A letter of stage deliver at offset 0 of the dead-letter topic."""
    record: Message[None] = Message(
        topic=scene.topic, partition=0, offset=41, key=b"k", value=b"v", headers=[],
        timestamp=0, payload=None,
    )  # fmt: skip
    cause = DeadLetterCause(
        stage=Stage.DELIVER, kind=FailureKind.DELIVERY, reason="refused", attempts=1,
        task_id="0:41:0", sink="out", payload=KafkaPayload(sink="out", value=b"again"),
        delivery_id="the-first-id",
    )  # fmt: skip
    headers = letter_headers(record, cause, LetterStamp(cluster=CLUSTER, group="", worker=""), 0.0)
    topic = f"{scene.topic}_dlq"
    letters = kafka_letters(DeadLettersConfig(), topic=topic, brokers=scene.brokers, client={})()
    letters.write_record(b"k", b"v", headers, 0)
    letters.close()


@pytest.mark.slow
def test_a_worker_probes_delivers_a_letter_and_records_its_metrics(
    scene: Scene, database: Database
) -> None:
    scene.worker(NAME).ready()
    value = base64.b64encode(b'{"script": "echo probed"}').decode()
    probed = asked(database, "probe", value=value)
    assert (probed["state"], probed["detail"]) == ("done", "fate: delivered")
    assert [task["stdout"] for task in probed["result"]["tasks"]] == ["probed\n"]
    assert scene.read() == []
    assert scene.committed() <= 0, "at most where the group begins"

    bury(scene)
    delivered = asked(database, "deliver_letter", partition=0, offset=0)
    assert (delivered["state"], delivered["detail"]) == ("done", "stored by sink out")
    (stored,) = scene.results(1)
    assert (stored.value(), delivery_ids([stored])) == (b"again", ["the-first-id"])

    row = database.execute(
        "SELECT metrics FROM recorder_runstate JOIN recorder_run ON id = run_id WHERE worker = %s",
        [NAME],
    ).fetchone()
    assert row is not None
    names = {family["name"] for family in row["metrics"]["families"]}
    assert "drakkar_executor_slots" in names
