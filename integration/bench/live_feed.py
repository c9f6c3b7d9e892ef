"""``python -m integration.bench.live_feed``: events of many workers, or of one, and no worker.

Prints a token that may read, then feeds the configured database until it is ended. Every slot of
every run completes a task and starts the next, stored as the recorder stores: seq, then COPY.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import django

PARTITIONS = 50
BEAT_SECONDS = 2.0
STEPS = 8
"""Steps in which the slots of a worker take turns."""
TOPIC = "search.requests"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """How many workers of how many slots tell how much."""

    workers: int
    slots: int
    events_per_second: float

    @property
    def task_seconds(self) -> float:
        """Seconds that a task takes: each slot tells its end and the next one's start."""
        return 2 * self.workers * self.slots / self.events_per_second

    @property
    def step_slots(self) -> int:
        """Slots of a worker that tell at once, as its recorder stores them together."""
        return max(1, self.slots // STEPS)

    @property
    def step_seconds(self) -> float:
        """Seconds between two steps."""
        return self.task_seconds * self.step_slots / self.slots


def parser() -> argparse.ArgumentParser:
    """The command line."""
    root = argparse.ArgumentParser(prog="python -m integration.bench.live_feed")
    root.add_argument("--workers", type=int, default=10)
    root.add_argument("--slots", type=int, default=8, help="of each worker")
    root.add_argument("--rate", type=float, default=2000.0, help="events a second of all")
    return root


def main() -> int:
    """Feed until the process is ended."""
    asked = parser().parse_args()
    fleet = Fleet(workers=asked.workers, slots=asked.slots, events_per_second=asked.rate)
    django.setup()
    from recorder.models import Run, RunState
    from recorder.partitions import create_ahead

    create_ahead(_now())
    print(_token(), flush=True)
    ids = [uuid4() for _ in range(fleet.workers)]
    Run.objects.bulk_create(Run(**_run(fleet, number, each)) for number, each in enumerate(ids))
    RunState.objects.bulk_create(
        RunState(run_id=each, state="ready", beat_at=_now(), partitions=_partitions(fleet, number))
        for number, each in enumerate(ids)
    )
    due = beat_due = time.monotonic()
    for step in range(sys.maxsize):
        _store(fleet, ids, step)
        if time.monotonic() >= beat_due:
            RunState.objects.filter(run__in=ids).update(beat_at=_now())
            beat_due += BEAT_SECONDS
        due += fleet.step_seconds
        time.sleep(max(0.0, due - time.monotonic()))
    return 0


def _store(fleet: Fleet, ids: list[UUID], step: int) -> None:
    from django.db import transaction

    from recorder.models import Event, Run

    with transaction.atomic():
        last = (step + 1) * 2 * fleet.step_slots
        Run.objects.filter(id__in=ids).update(recorded_seq=last)
        Event.objects.copy_in(list(_rows(fleet, ids, step)))


def _rows(fleet: Fleet, ids: list[UUID], step: int) -> Iterator[dict[str, Any]]:
    ended = {"kind": "task_completed", "exit_code": 0, "duration_ms": fleet.task_seconds * 1000}
    for worker, run in enumerate(ids):
        for number in range(step * fleet.step_slots, (step + 1) * fleet.step_slots):
            slot = number % fleet.slots
            place = {"run": run, "slot": slot, "partition": worker + fleet.workers * (slot % 5)}
            yield {**place, **_task(place["partition"], number), **ended, "seq": 2 * number + 1}
            started = {"kind": "task_started", "queue_ms": 1.0, "seq": 2 * number + 2}
            new = _task(place["partition"], number + fleet.slots)
            yield {**place, **new, **started}


def _task(partition: Any, offset: int) -> dict[str, Any]:
    return {
        "ts": _now(),
        "topic": TOPIC,
        "offset": offset,
        "task_id": f"{partition}:{offset}:0",
        "attempt": 1,
        "labels": {"tenant": "acme" * 20},
    }


def _run(fleet: Fleet, number: int, key: UUID) -> dict[str, Any]:
    return {
        "id": key,
        "cluster": "main",
        "worker": f"worker-{number}",
        "host": "host",
        "pid": 1,
        "version": "1",
        "isolation": "none",
        "slots": fleet.slots,
        "config_hash": "",
        "started_at": _now(),
    }


def _partitions(fleet: Fleet, number: int) -> list[dict[str, Any]]:
    owned = range(number, PARTITIONS, fleet.workers)
    return [{"topic": TOPIC, "partition": n, "state": "running", "lag": n} for n in owned]


def _token() -> str:
    from django.contrib.auth.models import User

    from drakkar_site.accounts.tokens import issue

    return issue(User.objects.create_user("bench"), ["read"], None)[1]


def _now() -> datetime:
    return datetime.now(UTC)


if __name__ == "__main__":
    sys.exit(main())
