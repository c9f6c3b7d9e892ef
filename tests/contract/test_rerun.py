"""Reruns of failed messages: chosen from a real history, and run by a real worker."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.utils import timezone
from pydantic import BaseModel

from domain.events import Event, MessageRerun
from domain.origin import ONLY_TASKS_HEADER, REPLAY_HEADER
from recorder.config import RecorderConfig
from recorder.folding import grouped
from recorder.message_row import fold
from recorder.rows import to_row
from recorder.runs import uuid7
from recorder.writer import ensure_run, flush
from sinks.letter_rows import store_letters
from tests.contract.test_recorder_postgres import description
from tests.support.memory_source import MemorySource
from tests.support.pipeline import TOPIC, cluster_config, new_cluster, running
from workers.broker.memory_cluster import MemoryCluster
from workers.control_plane.jobs import run_reruns
from workers.control_plane.rerun.filters import filters_of
from workers.control_plane.rerun.jobs import (
    Choices,
    ask_for,
    counts_of,
    preview,
)
from workers.control_plane.rerun.matching import Chosen
from workers.control_plane.rerun.watch import note_outcomes
from workers.handler import Handler, MemoryPayload, Message, Payload, Pending, Task, TaskResult
from workers.models import RerunJob

pytestmark = pytest.mark.django_db(transaction=True)
CONFIG = RecorderConfig()
KEY = "k" * 32
FAST = Choices(rate=1000.0)


class Work(BaseModel):
    """A script a task, each with a label of its number."""

    scripts: list[str]


class WorkHandler(Handler[Work]):
    """Runs the scripts; delivers what each wrote."""

    async def arrange(self, messages: Sequence[Message[Work]], pending: Pending) -> Sequence[Task]:
        return [
            Task(
                args=("-c", script),
                labels={"place": str(number)},
                source_offsets=(message.offset,),
            )
            for message in messages
            for number, script in enumerate(message.payload.scripts)
        ]

    async def collect(self, result: TaskResult) -> Sequence[Payload]:
        return [MemoryPayload(sink="store", value=result.stdout_text)]


@pytest.fixture(autouse=True)
def topic(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cluster ``main`` of this site reads the topic of the memory cluster."""
    known = settings.DRAKKAR.clusters["main"]  # type: ignore[union-attr]
    kafka = known.kafka.model_copy(update={"topic": TOPIC})
    clusters = {"main": known.model_copy(update={"kafka": kafka})}
    monkeypatch.setattr(
        settings,
        "DRAKKAR",
        settings.DRAKKAR.model_copy(update={"clusters": clusters}),  # type: ignore[union-attr]
    )


@pytest.fixture
def fixed(tmp_path: Path) -> Path:
    """A file: the program is broken while it is not there."""
    return tmp_path / "fixed"


@pytest.fixture
def cluster() -> MemoryCluster:
    return new_cluster(2)


@pytest.fixture
def source(cluster: MemoryCluster) -> MemorySource:
    return MemorySource(cluster, TOPIC)


def broken(fixed: Path, code: int = 7) -> str:
    """A script that fails until the program is fixed."""
    return f"test -e {fixed} || exit {code}; printf fine"


def produce(cluster: MemoryCluster, *scripts: str, partition: int = 0, key: bytes = b"k") -> None:
    value = json.dumps({"scripts": scripts}).encode()
    cluster.produce(TOPIC, partition, value, key)


def serve(cluster: MemoryCluster, count: int) -> list[Any]:
    """Have a worker give so many messages their fate, record what it told; what it stored."""

    async def main() -> tuple[list[Event], list[Any]]:
        config = cluster_config(max_retries=0)
        async with running(cluster, config, WorkHandler({}, max_retries=0)) as live:
            await live.fates(count)
            assert await live.stop() == 0
            return live.heard.events, list(live.stored)

    events, stored = asyncio.run(main())
    record(events)
    return stored


def record(events: Sequence[Event]) -> None:
    """Store events as the recorder of a run of its own does."""
    run = replace(description(), id=uuid7(time.time()), started_at=time.time())
    ensure_run(run)
    rows: list[dict[str, Any]] = []
    seq = 0
    for group in grouped(events, slow_ms=60_000):
        if group.is_usual:
            rows.append(fold(group.events, seq + 1))
        else:
            rows += [to_row(event, seq + n, CONFIG) for n, event in enumerate(group.events, 1)]
        seq += len(group.events)
    flush(run, rows, 0)
    store_letters("main", "w", [row for row in rows if row["kind"] == "dead_lettered"])


def found(**texts: str) -> Chosen:
    return preview(filters_of(texts, "main", timezone.now()))


def places(**texts: str) -> list[tuple[int, int]]:
    return sorted(match.place for match in found(**texts).matches)


def ask(key: str = KEY, choices: Choices = FAST, **texts: str) -> RerunJob:
    return ask_for(filters_of(texts, "main", timezone.now()), choices, actor="mara", key=key)


def rerun(source: MemorySource, told: list[Event] | None = None) -> None:
    run_reruns({"main": lambda: source}, (told if told is not None else []).append)


def test_what_failed_runs_again_as_itself_and_is_found_no_more(
    cluster: MemoryCluster, source: MemorySource, fixed: Path
) -> None:
    produce(cluster, broken(fixed))
    produce(cluster, "printf well")
    produce(cluster, broken(fixed))
    assert len(serve(cluster, 3)) == 1
    assert places() == [(0, 0), (0, 2)]
    fixed.touch()
    job, told = ask(), list[Event]()
    rerun(source, told)
    assert [dict(record.headers) for _, record in source.sent] == [
        {REPLAY_HEADER: b"main/requests/0/0/1700000000000", ONLY_TASKS_HEADER: b"0"},
        {REPLAY_HEADER: b"main/requests/0/2/1700000000002", ONLY_TASKS_HEADER: b"0"},
    ]
    assert [(event.offset, event.target) for event in told] == [  # type: ignore[attr-defined]
        (0, "requests 0:3"),
        (2, "requests 0:4"),
    ]
    assert all(isinstance(event, MessageRerun) and event.actor == "mara" for event in told)
    assert (places(), found().sent_already) == ([], 2)
    stored = serve(cluster, 2)
    ids = sorted(payload.delivery_id for payload in stored)
    assert ids == [f"main/requests/0/{n}/170000000000{n}/0/collect/0" for n in (0, 2)]
    assert places() == []
    assert note_outcomes() == 2
    assert counts_of(job) == {"sent": 2, "ended_well": 2}
    job.refresh_from_db()
    assert (job.state, job.messages_total, job.messages_done) == ("done", 2, 2)
