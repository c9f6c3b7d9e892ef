"""``python -m integration.bench.live_feed``: 2,000 events a second of ten workers, and no worker.

Prints a token that may read, then feeds the configured database until it is ended. Every slot of
every run completes a task and starts the next, stored as the recorder stores: seq, then COPY.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import django

WORKERS, SLOTS, PARTITIONS = 10, 8, 50
EVENTS_PER_SECOND = 2000
TURN_EVENTS = 2 * WORKERS * SLOTS
TURN_SECONDS = TURN_EVENTS / EVENTS_PER_SECOND
BEAT_TURNS = 25
"""A beat about every 2 s."""
TOPIC = "search.requests"


def main() -> int:
    """Feed until the process is ended."""
    django.setup()
    from recorder.models import Run, RunState
    from recorder.partitions import create_ahead

    create_ahead(_now())
    print(_token(), flush=True)
    ids = [uuid4() for _ in range(WORKERS)]
    Run.objects.bulk_create(Run(**_run(number, each)) for number, each in enumerate(ids))
    RunState.objects.bulk_create(
        RunState(run_id=each, state="ready", beat_at=_now(), partitions=_partitions(number))
        for number, each in enumerate(ids)
    )
    due = time.monotonic()
    for turn in range(sys.maxsize):
        _store(ids, turn)
        if turn % BEAT_TURNS == 0:
            RunState.objects.filter(run__in=ids).update(beat_at=_now())
        due += TURN_SECONDS
        time.sleep(max(0.0, due - time.monotonic()))
    return 0


def _store(ids: list[UUID], turn: int) -> None:
    from django.db import transaction

    from recorder.models import Event, Run

    with transaction.atomic():
        Run.objects.filter(id__in=ids).update(recorded_seq=(turn + 1) * 2 * SLOTS)
        Event.objects.copy_in(list(_rows(ids, turn)))


def _rows(ids: list[UUID], turn: int) -> Iterator[dict[str, Any]]:
    ended = {"kind": "task_completed", "exit_code": 0, "duration_ms": TURN_SECONDS * 1000}
    for worker, run in enumerate(ids):
        for slot in range(SLOTS):
            seq = turn * 2 * SLOTS + 2 * slot
            place = {"run": run, "slot": slot, "partition": worker + WORKERS * (slot % 5)}
            yield {**place, **_task(place["partition"], turn - 1, slot), **ended, "seq": seq + 1}
            started = {"kind": "task_started", "queue_ms": 1.0, "seq": seq + 2}
            yield {**place, **_task(place["partition"], turn, slot), **started}


def _task(partition: Any, turn: int, slot: int) -> dict[str, Any]:
    offset = (turn + 1) * SLOTS + slot
    return {
        "ts": _now(),
        "topic": TOPIC,
        "offset": offset,
        "task_id": f"{partition}:{offset}:0",
        "attempt": 1,
        "labels": {"tenant": "acme" * 20},
    }


def _run(number: int, key: UUID) -> dict[str, Any]:
    return {
        "id": key,
        "cluster": "main",
        "worker": f"worker-{number}",
        "host": "host",
        "pid": 1,
        "version": "1",
        "isolation": "none",
        "slots": SLOTS,
        "config_hash": "",
        "started_at": _now(),
    }


def _partitions(number: int) -> list[dict[str, Any]]:
    owned = range(number, PARTITIONS, WORKERS)
    return [{"topic": TOPIC, "partition": n, "state": "running", "lag": n} for n in owned]


def _token() -> str:
    from django.contrib.auth.models import User

    from drakkar_site.accounts.tokens import issue

    return issue(User.objects.create_user("bench"), ["read"], None)[1]


def _now() -> datetime:
    return datetime.now(UTC)


if __name__ == "__main__":
    sys.exit(main())
