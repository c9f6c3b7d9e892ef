"""A fleet to look at: three workers, fifty partitions, sinks, and tasks of the last minutes."""

from __future__ import annotations

from datetime import datetime, timedelta
from random import Random
from typing import Any

from django.conf import settings
from django.utils import timezone

from recorder.models import Event, Run, RunState, RunTrack
from recorder.runs import uuid7
from sinks.models import DeadLetter
from sinks.statistics import BUCKET_BOUNDS_SECONDS

TOPIC = "search.requests"
SLOTS = 8
STDERR = b"corpus/c7/0188.txt: No such file or directory\n"
PROGRAMS = ("rg 14.1.0", "rg 15.0.0")
"""Versions of the program: worker-2 got the other one."""
Row = dict[str, Any]
TENANTS = ("acme", "gamla", "nord", "sund")


def fleet(seconds: int = 240) -> list[Run]:
    """Make it; the same figures every time but for the clock."""
    chance, now = Random(7), timezone.now()
    runs = [_run(number, now) for number in (1, 2, 3)]
    for number, run in enumerate(runs):
        tasks = [task for slot in range(SLOTS) for task in _tasks(chance, slot, now, seconds)]
        running = [task for task in tasks if task["end"] is None]
        _state(run, number, now, running)
        _events(run, number, tasks, now)
        _track(run, number, now)
    ended = _run(4, now - timedelta(hours=1))
    counters = {"consumed": 900, "tasks_completed": 871, "tasks_failed": 4}
    RunState.objects.create(
        run=ended, state="stopped", beat_at=now, ended_at=now, counters=counters
    )
    return runs


def _run(number: int, now: datetime) -> Run:
    return Run.objects.create(
        id=uuid7(now.timestamp() - 4000 + number),
        cluster="main",
        worker=f"worker-{min(number, 3)}",
        host="node-a",
        pid=4000 + number,
        version="0.1.0",
        isolation="namespace",
        slots=SLOTS,
        handler_version="2.4.1",
        program_version=PROGRAMS[number == 2],
        deployed_by="ana",
        config_hash="90ab12cd34ef5566" if number == 2 else _in_force(),
        config={"executor": {"task_timeout_seconds": 45, "limits": {"open_files": 256}}},
        started_at=now - timedelta(seconds=4000 - number),
    )


def _in_force() -> str:
    """What a worker that starts now would run with: only worker-2 drifts."""
    assert settings.DRAKKAR is not None
    return str(settings.DRAKKAR.clusters["main"].fingerprint)


def _tasks(chance: Random, slot: int, now: datetime, seconds: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    at = now - timedelta(seconds=seconds)
    while at < now:
        took = min(30.0, chance.lognormvariate(0.6, 0.8))
        end = at + timedelta(seconds=took)
        partition = chance.randrange(50)
        found.append(
            {
                "slot": slot,
                "start": at,
                "end": end if end < now else None,
                "partition": partition,
                "offset": 48_000 + len(found) * 10 + slot,
                "failed": chance.random() < 0.04,
                "attempt": 2 if chance.random() < 0.05 else 1,
                "labels": {"tenant": chance.choice(TENANTS), "corpus": f"c{chance.randrange(9)}"},
            }
        )
        at = end + timedelta(seconds=chance.random() * 0.8)
    return found


def _task_id(task: dict[str, Any]) -> str:
    return f"{task['partition']}:{task['offset']}:0"


def _state(run: Run, number: int, now: datetime, running: list[dict[str, Any]]) -> None:
    counts = [0] * (len(BUCKET_BOUNDS_SECONDS) + 1)
    counts[12], counts[16], counts[24] = 800, 200, 12
    rows = [
        {
            "task_id": _task_id(task),
            "topic": TOPIC,
            "started_at": task["start"].timestamp(),
            "queue_ms": 120.0,
            **{name: task[name] for name in ("slot", "partition", "offset", "attempt", "labels")},
            **_progress(task["slot"]),
        }
        for task in running
    ]
    RunState.objects.create(
        run=run,
        state="ready",
        beat_at=now,
        rss_bytes=(148 + 30 * number) * 1024 * 1024,
        counters={
            "consumed": 80_000 + number,
            "tasks_completed": 101_000,
            "tasks_failed": 160,
            "tasks_retried": 150,
            "dead_letters": 6,
            "fates": {"delivered": 79_000, "filtered": 900, "skipped": 0, "dead_lettered": 6},
        },
        pool={"slots": SLOTS, "busy": len(rows), "waiting": 70, "running": rows},
        partitions=[_partition(n, number) for n in range(number, 50, 3)],
        sinks=[_sink("results", "kafka", counts), _sink("archive", "mongo", counts, number == 1)],
        recorder={"buffer_events": 3, "spooled_bytes": 0, "shed": 0},
    )


def _progress(slot: int) -> dict[str, Any]:
    """What a program says of how far it is; of three, one says nothing."""
    if slot % 3 == 2:
        return {}
    done = (slot * 37 + 20) % 90
    return {"progress": done / 90, "note": f"frame {done} of 90"}


def _track(run: Run, number: int, now: datetime) -> None:
    """Ten minutes of figures; worker-2 said nothing for a while."""
    chance, counts = Random(number), [0] * (len(BUCKET_BOUNDS_SECONDS) + 1)
    samples, totals, lag = [], [80_000, 101_000, 160, 150, 6], 900
    for ago in range(650, -1, -10):
        totals = [each + chance.randrange(1 + each // 1000) for each in totals]
        counts[10 + chance.randrange(3)] += 40
        lag = max(0, lag - chance.randrange(25))
        if number != 1 or not 200 < ago < 260:
            samples.append([now.timestamp() - ago, totals, lag, list(counts), 17, 0, 0])
    RunTrack.objects.create(
        run=run, written_at=now, bounds=list(BUCKET_BOUNDS_SECONDS), samples=samples
    )


def _partition(n: int, number: int) -> dict[str, Any]:
    lag = (n * 37) % 260
    row: dict[str, Any] = {
        "topic": TOPIC,
        "partition": n,
        "epoch": 3,
        "state": "paused" if n == 23 else "running",
        "parked": {},
        "queue": (n * 13) % 60,
        "pending": 4 + n % 7,
        "position": 48_400 + n,
        "committed": 48_380 + n,
        "high_watermark": 48_400 + n + lag,
        "lag": lag if n != 31 else None,
        "watermark": 48_380 + n,
        "blocker": {"offset": 48_380 + n, "task_id": f"{n}:{48_380 + n}:0", "age_seconds": n * 1.5},
        "strip": [[1, False], [6, True], [2, False], [7, True], [4, False]],
    }
    if n == 42:
        row |= {"state": "parked", "parked": {"offset_out_of_range": "position 51,877 is too low"}}
    return row


def _sink(name: str, kind: str, counts: list[int], is_open: bool = False) -> dict[str, Any]:
    return {
        "name": name,
        "kind": kind,
        "delivered": 1012,
        "errors": 38 if is_open else 0,
        "errors_by_class": {"transient": 38 if is_open else 0, "permanent": 0},
        "retries": 38 if is_open else 0,
        "last_delivery_at": timezone.now().timestamp() - 3,
        "last_duration_ms": 18.2,
        "p50_ms": 6.4,
        "p95_ms": 25.6,
        "p99_ms": 409.6,
        "queue_bytes": 40_000,
        "queue_entries": 404 if is_open else 2,
        "breaker": "open" if is_open else "closed",
        "next_probe_seconds": 8.0 if is_open else None,
        "last_error": "server selection timed out" if is_open else None,
        "last_error_at": timezone.now().timestamp() - 2 if is_open else None,
        "latency_counts": counts,
        "is_paused": False,
        "waiting_for": "server selection timed out" if is_open else None,
    }


def _events(run: Run, number: int, tasks: list[dict[str, Any]], now: datetime) -> None:
    rows: list[Row] = [
        _row(ts=now - timedelta(seconds=235), kind="assigned", partition=n, data={"epoch": 3})
        for n in range(number, 50, 3)
    ]
    if number == 0:
        data = {"cause": "offset_out_of_range"}
        rows.append(_row(ts=now - timedelta(seconds=95), kind="parked", partition=42, data=data))
    if number == 1:
        rows.append(_row(ts=now - timedelta(seconds=41), kind="breaker_opened", sink="archive"))
    for task in tasks:
        rows += _of_task(task)
    rows.sort(key=lambda row: row["ts"])
    places = ({"offset": 40_000, **row, "run": run.id, "topic": TOPIC} for row in rows)
    Event.objects.copy_in([{**row, "seq": seq} for seq, row in enumerate(places, 1)])
    Run.objects.filter(id=run.id).update(recorded_seq=len(rows))


def _row(**columns: Any) -> Row:
    """A row of the events table, as COPY takes it."""
    return columns


def _of_task(task: dict[str, Any]) -> list[Row]:
    names = ("slot", "partition", "offset", "attempt", "labels")
    same = {"task_id": _task_id(task), **{name: task[name] for name in names}}
    start, end = task["start"], task["end"]
    data = {"task_ids": [same["task_id"]], "batch_messages": 1 + task["slot"]}
    place = {"partition": task["partition"], "offset": task["offset"], "labels": task["labels"]}
    arranged_at = start - timedelta(milliseconds=120)
    rows: list[Row] = [
        _row(ts=arranged_at, kind="arranged", duration_ms=4.0 + task["slot"], data=data, **place),
        _row(ts=start, kind="task_started", queue_ms=120.0, **same),
    ]
    if end is None:
        return rows
    args = ["-e", "needle", f"corpus/{task['labels']['corpus']}/0188.txt"]
    usage = {"user_cpu_seconds": 0.41, "system_cpu_seconds": 0.06, "max_rss_bytes": 14_680_064}
    output = {"args": args, "stdout": b"12:needle\n31:needle\n", "stdout_size": 20}
    took = {"duration_ms": (end - start).total_seconds() * 1000.0, "queue_ms": 120.0, "pid": 77}
    if task["failed"]:
        detail = {"failure": "exit", "detail": "exit code 3", **usage}
        output |= {"stdout": b"", "stdout_size": 0, "stderr": STDERR, "stderr_size": len(STDERR)}
        last = {"exit_code": 3, "data": detail, **output, **took, **same}
        return [*rows, _row(ts=end, kind="task_failed", **last)]
    told = {"payloads": 1 + task["slot"] % 3, "hook": "collect"}
    collected = _row(
        ts=end, kind="collected", duration_ms=1.3, data=told, task_id=same["task_id"], **place
    )
    last = {"exit_code": 0, "data": usage, **output, **took, **same}
    return [*rows, _row(ts=end, kind="task_completed", **last), collected]


def controller() -> None:
    """A controller that works."""
    now = timezone.now()
    run = _run(9, now)
    run.cluster, run.worker, run.config = "_control", "controller", {}
    run.save()
    RunState.objects.create(run=run, state="ready", beat_at=now)


def failures() -> int:
    """End the messages of the fleet whose tasks failed, without another outcome; how many."""
    failed = list(Event.objects.filter(kind="task_failed"))
    ended = [
        Event(
            ts=row.ts + timedelta(milliseconds=5),
            run=row.run,
            seq=row.seq + 10_000_000,
            kind="message_completed",
            topic=row.topic,
            partition=row.partition,
            offset=row.offset,
            duration_ms=40.0,
            data={"fate": "skipped", "reason": "the program is broken"},
        )
        for row in failed
    ]
    Event.objects.bulk_create(ended)
    return len({(row.partition, row.offset) for row in failed})


def letters(runs: list[Run]) -> None:
    """A few dead letters of the fleet, one of each stage that a person meets."""
    now = timezone.now()
    told = [
        ("task", "exit", "exit code 3: no such file: corpus/c7/0188.txt"),
        ("task", "timeout", "killed after 45 s"),
        ("decode", "decode", "file_path: expected a text, got a number"),
        ("sink", "permanent", "results: message of 1,310,720 bytes is larger than the topic takes"),
    ]
    for number, (stage, failure, reason) in enumerate(told):
        place = (7 + number, 48_100 + 3 * number)
        DeadLetter.objects.create(
            cluster="main",
            letter_topic=f"{TOPIC}.dead",
            letter_partition=number % 2,
            letter_offset=40 + number,
            at=now - timedelta(minutes=2 + 7 * number),
            topic=TOPIC,
            partition=place[0],
            offset=place[1],
            origin=f"{TOPIC} {place[0]}:{place[1]}",
            stage=stage,
            failure=failure,
            reason=reason,
            attempts=3 if stage == "task" else 1,
            task_id=f"{place[0]}:{place[1]}:0" if stage == "task" else "",
            sink="results" if stage == "sink" else "",
            worker=runs[number % len(runs)].worker,
            value=b'{"pattern": "needle", "file_path": "corpus/c7/0188.txt"}',
            headers=[["tenant", "YWNtZQ=="]],
            size_bytes=56,
            is_whole=True,
            fingerprint=f"{number:064x}",
        )
