"""A thousand failed messages run again with the mended program: Apache Kafka, a real worker, a real
controller, the command, and rows in PostgreSQL."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from confluent_kafka import Producer
from pydantic import BaseModel

from domain.decision import TaskDecision
from integration.demo.kafka import create_topics
from integration.services.kafka_apache import RunningKafka
from integration.services.ports import free_port
from tests.support.worker_process import (
    CHECKOUT,
    CLUSTER,
    WAIT_SECONDS,
    Scene,
    WorkerProcess,
    until,
)
from workers.handler import (
    DeadLetter,
    Handler,
    Message,
    Payload,
    Pending,
    PostgresPayload,
    Precomputed,
    Skip,
    Task,
    TaskFailure,
    TaskResult,
)

pytestmark = pytest.mark.timeout(300)
TOPIC, TABLE, PARTITIONS = "broken", "rerun_answers", 4
MESSAGES, FAILING = 1040, 1000
LETTERED_EVERY = 5
"""Every so many failures leave a letter, the others are skipped: more would be a flood."""
FATES = "drakkar_message_fates_total"
PATIENCE = 150.0
"""Seconds; an idle machine needs five."""
CODES = (7, 8)
"""Exit codes of the broken program, by turns."""


class Asked(BaseModel):
    """A number, and whether the program that answers it is the broken one."""

    number: int
    is_broken: bool
    mended: str


class TwoAnswers(Handler[Asked]):
    """Two tasks a message: one whose answer is known, and a program that may be broken."""

    async def arrange(self, messages: Sequence[Message[Asked]], pending: Pending) -> Sequence[Task]:
        """The same tasks whenever it is asked."""
        return [task for one in messages for task in _tasks(one.offset, one.payload)]

    async def collect(self, result: TaskResult) -> Sequence[Payload]:
        """A plain row: only the sink's ledger keeps a second one out."""
        number = int(result.task.labels["number"])
        row = {"number": number, "answer": result.stdout_text}
        return [PostgresPayload(sink="answers", row=row)]

    async def on_error(self, failure: TaskFailure) -> TaskDecision:
        """Letters for a few, nothing for the others."""
        number = int(failure.task.labels["number"])
        reason = "broken"
        return Skip(reason=reason) if number % LETTERED_EVERY else DeadLetter(reason=reason)


def _tasks(offset: int, asked: Asked) -> tuple[Task, Task]:
    code = CODES[asked.number % len(CODES)]
    guard = f"test -e {asked.mended} || exit {code}; " if asked.is_broken else ""
    known = Precomputed(stdout=f"first-{asked.number}".encode())
    script = f"{guard}printf second-{asked.number}"
    labels = {"number": str(asked.number)}
    return (
        Task(precomputed=known, labels=labels, source_offsets=(offset,)),
        Task(args=("-c", script), labels=labels, source_offsets=(offset,)),
    )


@pytest.fixture
def scene(kafka_apache: RunningKafka, process_database: str, tmp_path: Path) -> Iterator[Scene]:
    """A cluster with one sink that stores plain rows once."""
    create_topics(kafka_apache.brokers, [TOPIC], PARTITIONS)
    create_topics(kafka_apache.brokers, [f"{TOPIC}_dlq"], 1)
    with psycopg.connect(process_database, autocommit=True) as database:
        database.execute(f"CREATE TABLE IF NOT EXISTS {TABLE} (number int, answer text)")
    sink = {"kind": "postgres", "dsn": process_database, "table": TABLE, "dedup": True}
    made = Scene(
        folder=tmp_path,
        brokers=kafka_apache.brokers,
        database_url=process_database,
        topic=TOPIC,
        executor={"max_executors": 4},
        cluster={"handler": f"{__name__}:TwoAnswers", "sinks": {"answers": sink}},
    )
    yield made
    made.close()


def environment(scene: Scene) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DRAKKAR_")}
    return kept | {
        "DRAKKAR_CONFIG": str(scene.folder / "drakkar.yaml"),
        "DRAKKAR_SITE__CONTROLLER_METRICS_PORT": str(free_port()),
    }


@contextmanager
def running(scene: Scene) -> Iterator[WorkerProcess]:
    """A worker, and a controller that has made room for today's events, until the block ends."""
    worker = scene.worker()
    with (scene.folder / "controller.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "manage.py", "runcontroller"],
            cwd=CHECKOUT, env=environment(scene), stdout=log, stderr=log,
        )  # fmt: skip
    try:
        until(lambda: days(scene) > 1, "a table of today's events")
        yield worker.ready()
        process.send_signal(signal.SIGTERM)
        assert process.wait(WAIT_SECONDS) == 0
    finally:
        process.kill()
        process.wait()


def rerun(scene: Scene, *arguments: str) -> dict[str, Any]:
    """What the command answers; it has to end well."""
    done = subprocess.run(
        [sys.executable, "manage.py", "rerun", "--cluster", CLUSTER, "--json", *arguments],
        cwd=CHECKOUT, env=environment(scene), capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def rows(scene: Scene) -> Counter[tuple[int, str]]:
    with psycopg.connect(scene.database_url) as database:
        return Counter(database.execute(f"SELECT number, answer FROM {TABLE}").fetchall())


def days(scene: Scene) -> int:
    with psycopg.connect(scene.database_url) as database:
        found = database.execute(
            "SELECT count(*) FROM pg_inherits WHERE inhparent = 'recorder_event'::regclass"
        ).fetchone()
    assert found is not None
    return int(found[0])


def letter_states(scene: Scene) -> list[str]:
    with psycopg.connect(scene.database_url) as database:
        found = database.execute(
            "SELECT DISTINCT state FROM sinks_deadletter WHERE topic = %s", [scene.topic]
        )
        return [state for (state,) in found]


def produce(scene: Scene, mended: Path) -> None:
    producer = Producer({"bootstrap.servers": scene.brokers})
    for number in range(MESSAGES):
        asked = Asked(number=number, is_broken=number < FAILING, mended=str(mended))
        producer.produce(
            scene.topic, asked.model_dump_json().encode(), partition=number % PARTITIONS
        )
    assert producer.flush(WAIT_SECONDS) == 0


@pytest.mark.slow
def test_a_thousand_failed_messages_give_what_the_first_run_would_have_given(
    scene: Scene, tmp_path: Path
) -> None:
    mended = tmp_path / "mended"
    produce(scene, mended)
    firsts = {(number, f"first-{number}"): 1 for number in range(MESSAGES)}
    seconds = {(number, f"second-{number}"): 1 for number in range(MESSAGES)}
    well = {key: 1 for key in seconds if key[0] >= FAILING}
    with running(scene) as worker:
        until(lambda: worker.metric(FATES) == MESSAGES, "all have a fate", PATIENCE)
        until(lambda: rows(scene) == firsts | well, "what did not fail is stored")
        until(lambda: rerun(scene, "--dry-run")["messages"] == FAILING, "the history knows all")

        mended.touch()
        wanted = {"messages": FAILING // 2, "sent": FAILING // 2, "ended_well": FAILING // 2}
        asked = ("--yes", "--wait", "--rate", "1000")
        some = rerun(scene, "--exit-code", str(CODES[0]), *asked)
        assert some == some | wanted
        # All tasks of these: the ledger keeps out what the first run had stored.
        others = rerun(scene, "--failure", "exit", "--since", "1h", "--all-tasks", *asked)
        assert others == others | wanted
        assert rows(scene) == firsts | seconds
        for same in (("--exit-code", str(CODES[0])), ("--failure", "exit", "--since", "1h"), ()):
            assert rerun(scene, *same, "--dry-run")["messages"] == 0
        assert letter_states(scene) == ["replayed"]
