"""Rows of the history, made by factory-boy; times are seconds after ``START``."""

from __future__ import annotations

from collections import abc
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from factory.declarations import LazyFunction, RelatedFactory, Sequence
from factory.django import DjangoModelFactory

from recorder.models import Event, Run, RunState

START = datetime(2026, 3, 14, 3, 0, tzinfo=UTC)
TOPIC = "requests"


def at(seconds: float) -> datetime:
    """A moment after ``START``."""
    return START + timedelta(seconds=seconds)


class RunFactory(DjangoModelFactory[Run]):
    """A run; ``beat__state`` and other ``beat__`` values make its latest beat."""

    class Meta:
        model = Run
        skip_postgeneration_save = True

    id = LazyFunction(uuid4)
    cluster = "main"
    worker = Sequence(lambda n: f"worker-{n}")
    host = "host"
    pid = 1
    version = "1"
    isolation = "groups"
    slots = 4
    config_hash = ""
    config = LazyFunction(lambda: {"executor": {"binary": "run-rg"}})
    started_at = START
    beat = RelatedFactory("tests.support.factories.RunStateFactory", "run")


class RunStateFactory(DjangoModelFactory[RunState]):
    """The latest beat of a run."""

    class Meta:
        model = RunState

    state = "ready"
    beat_at = START


class EventFactory(DjangoModelFactory[Event]):
    """One row of the history."""

    class Meta:
        model = Event

    ts = START
    seq = Sequence(lambda n: n + 1)
    kind = "consumed"


def make_run(**values: Any) -> Run:
    """A stored run with its beat."""
    run: Run = RunFactory.create(**values)
    return run


def make_events(count: int, **values: Any) -> list[Event]:
    """Stored events, alike but for their ``seq``."""
    events: list[Event] = EventFactory.create_batch(count, **values)
    return events


class Story:
    """What one run tells, in order: each call is one event, ``seconds`` after ``START``."""

    def __init__(self, run: Run, topic: str = TOPIC, partition: int = 3) -> None:
        self.run = run
        self._place = {"topic": topic, "partition": partition}
        self._seq = 0

    def tell(self, seconds: float, kind: str, offset: int | None = None, **columns: Any) -> Event:
        """One event of the partition."""
        self._seq += 1
        values = self._place | {"offset": offset, "run": self.run.id, "seq": self._seq} | columns
        return make_events(1, ts=at(seconds), kind=kind, **values)[0]

    def consumed(self, seconds: float, offset: int) -> None:
        """A hand-over."""
        self.tell(seconds, "consumed", offset, data={"timestamp": 1, "size_bytes": 120})

    def arranged(
        self, seconds: float, offset: int, task_ids: abc.Sequence[str], label: str
    ) -> None:
        """An arrange call of 5 ms."""
        self.tell(
            seconds, "arranged", offset, labels={"message": label}, duration_ms=5.0,
            data={"task_ids": list(task_ids), "batch_messages": 1},
        )  # fmt: skip

    def ran(self, seconds: float, task_id: str, lasted: float, **columns: Any) -> None:
        """An attempt that began at ``seconds`` after a tenth of a second in the queue."""
        offset = int(task_id.split(":")[1])
        failure = columns.pop("failure", None)
        same = {
            "task_id": task_id, "attempt": columns.pop("attempt", 1), "slot": 1,
            "queue_ms": 100.0, "labels": {"who": "mara"},
            "args": ["--token", "s3cret", "needle"],
        }  # fmt: skip
        sources = columns.pop("source_offsets", [offset])
        self.tell(seconds, "task_started", offset, data={"source_offsets": sources}, **same)
        told: dict[str, Any] = {
            "started_at": at(seconds).timestamp(), "user_cpu_seconds": 0.25,
            "system_cpu_seconds": 0.05, "max_rss_bytes": 10 * 1024 * 1024,
        }  # fmt: skip
        if failure:
            told |= {"failure": failure, "detail": "ended badly"}
        self.tell(
            seconds + lasted, "task_failed" if failure else "task_completed", offset, data=told,
            **(
                same
                | {"exit_code": 0, "pid": 4711, "duration_ms": lasted * 1000.0}
                | {"stdout": b"found\xff", "stderr": b"", "stdout_size": 6, "stderr_size": 0}
                | columns
            ),
        )  # fmt: skip

    def delivered(self, seconds: float, task_id: str, sink: str) -> None:
        """A delivery of 10 ms after 20 ms in its lane, collected just before."""
        offset = int(task_id.split(":")[1])
        same = {"task_id": task_id}
        self.tell(
            seconds - 0.03, "collected", offset, duration_ms=1.0,
            data={"hook": "collect", "payloads": 1}, **same,
        )  # fmt: skip
        self.tell(
            seconds, "delivered", offset, sink=sink, attempt=1, duration_ms=10.0, queue_ms=20.0,
            data={"sink_kind": "kafka", "delivery_id": f"main/{offset}"}, **same,
        )  # fmt: skip

    def fate(self, seconds: float, offset: int, fate: str = "delivered") -> None:
        """A message's end."""
        self.tell(
            seconds, "message_completed", offset, duration_ms=1.0,
            data={"fate": fate, "reason": ""},
        )  # fmt: skip
