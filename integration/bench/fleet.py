"""A fleet with a long history, made by SQL: what the pages are measured with.

Import after ``django.setup()``.
"""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta
from typing import Any

from django.apps import apps
from django.contrib.auth.models import Group, User
from django.db import connection
from django.utils import timezone

from drakkar_site.accounts.tokens import issue
from recorder.models import ExportJob, Run, RunState, RunTrack
from recorder.partitions import create_ahead
from recorder.runs import uuid7
from sinks.models import DeadLetter, LetterJob, Replay
from sinks.statistics import BUCKET_BOUNDS_SECONDS
from workers.models import RerunJob

TOPIC = "search.requests"
WORKERS, PARTITIONS, SLOTS = 10, 50, 8
EVENTS_A_MESSAGE = 8
HOURS = 6
# Message m is of partition m % 50; partition p belongs to run p % 10.
EVENTS = f"""
INSERT INTO recorder_event (ts, run, seq, kind, topic, partition, "offset", task_id, slot,
    exit_code, duration_ms, queue_ms, attempt, sink, labels, args, stdout, stdout_size, data)
SELECT %(now)s - interval '{HOURS} hours' * (1 - m::float / %(messages)s)
        + interval '1 ms' * 40 * k,
    (%(runs)s::uuid[])[m %% {WORKERS} + 1], m / {WORKERS} * {EVENTS_A_MESSAGE} + k,
    CASE WHEN kind = 'task_completed' AND m %% 40 = 0 THEN 'task_failed' ELSE kind END,
    '{TOPIC}', m %% {PARTITIONS}, m / {PARTITIONS},
    CASE WHEN is_task THEN format('%%s:%%s:0', m %% {PARTITIONS}, m / {PARTITIONS}) END,
    CASE WHEN is_task THEN m %% {SLOTS} END,
    CASE WHEN kind = 'task_completed' THEN CASE WHEN m %% 40 = 0 THEN 3 ELSE 0 END END,
    CASE WHEN kind LIKE 'task_c%%' THEN 40.0 + m %% 300 END,
    CASE WHEN kind LIKE 'task_%%' THEN 5.0 END,
    CASE WHEN is_task THEN 1 END,
    CASE WHEN kind = 'delivered' THEN 'results' END,
    jsonb_build_object('tenant', 'tenant-' || m %% 97),
    CASE WHEN kind LIKE 'task_c%%' THEN '["-e", "needle", "corpus/c7/0188.txt"]'::jsonb END,
    CASE WHEN kind LIKE 'task_c%%' THEN '12:needle\n'::bytea END,
    CASE WHEN kind LIKE 'task_c%%' THEN 10 END,
    CASE kind WHEN 'arranged' THEN jsonb_build_object('task_ids',
            jsonb_build_array(format('%%s:%%s:0', m %% {PARTITIONS}, m / {PARTITIONS})))
        WHEN 'message_completed' THEN '{{"fate": "delivered"}}'::jsonb END
FROM generate_series(0, %(messages)s - 1) m CROSS JOIN (VALUES
    (1, 'consumed', false), (2, 'arranged', false), (3, 'task_started', true),
    (4, 'task_completed', true), (5, 'collected', true), (6, 'delivered', true),
    (7, 'message_completed', false), (8, 'committed', false)) told (k, kind, is_task)
"""  # noqa: S608 - constants of this module only
LETTERS = f"""
INSERT INTO sinks_deadletter (cluster, letter_topic, letter_partition, letter_offset, at, topic,
    partition, "offset", origin, stage, failure, reason, attempts, task_id, sink, worker,
    delivery_id, value, headers, size_bytes, is_whole, fingerprint, state, resolved_by, resolution)
SELECT 'main', '{TOPIC}.dead', n %% 4, n, %(now)s - interval '1 second' * (%(letters)s - n),
    '{TOPIC}', n %% {PARTITIONS}, n, format('{TOPIC} %%s:%%s', n %% {PARTITIONS}, n), 'task',
    'exit', 'exit code 3', 3, format('%%s:%%s:0', n %% {PARTITIONS}, n), '',
    'worker-' || n %% {WORKERS}, '', '{{"pattern": "needle"}}'::bytea, '[["tenant", "YWNtZQ=="]]',
    21, true, md5(n::text), CASE WHEN n %% 5 = 0 THEN 'resolved' ELSE 'open' END, '', ''
FROM generate_series(1, %(letters)s) n
"""  # noqa: S608 - constants of this module only
ASKED = f"""
INSERT INTO workers_controlrequest (id, key, cluster, worker, action, arguments, state, actor,
    requested_at, detail)
SELECT gen_random_uuid(), n::text, 'main', 'worker-' || n %% {WORKERS}, 'drain', '{{}}', 'done',
    'mara', %(now)s - interval '1 minute' * n, 'drained' FROM generate_series(1, %(asked)s) n
"""  # noqa: S608 - constants of this module only
AUDIT = """
INSERT INTO accounts_auditentry (at, actor, via, address, method, path, target, status, outcome,
    request_id)
SELECT %(now)s - interval '1 second' * n, 'mara', 'session', '127.0.0.1', 'POST', '/control/new',
    'worker-1', 302, 'done', n::text FROM generate_series(1, %(asked)s) n
"""


def make(events: int) -> dict[str, Any]:
    """Make it, with about that many events; returns what the arguments of the URL map may be."""
    now = timezone.now()
    create_ahead(now)
    runs = [_run(number, now) for number in range(WORKERS)]
    messages = max(PARTITIONS, events // EVENTS_A_MESSAGE)
    told: dict[str, Any] = {"now": now, "messages": messages, "runs": [run.id for run in runs]}
    told |= {"letters": max(60, events // 50), "asked": max(60, events // 100)}
    with connection.cursor() as cursor:
        for statement in (EVENTS, LETTERS, ASKED, AUDIT):
            cursor.execute(statement, told)
        cursor.execute("ANALYZE")
    Run.objects.filter(id__in=told["runs"]).update(
        recorded_seq=messages // WORKERS * EVENTS_A_MESSAGE
    )
    _ended(now, count=max(60, events // 1000))
    return {**_jobs(now), **_rows(), "offset": messages // PARTITIONS // 2}


def _rows() -> dict[str, Any]:
    """A row of each model, by its lower name: what the admin and some pages show one of."""
    models = [each for each in apps.get_models() if each._meta.app_label != "contenttypes"]
    newest = {
        each._meta.model_name: each._default_manager.order_by("-pk").first() for each in models
    }
    keys = {name: row.pk for name, row in newest.items() if row is not None}
    return {"rows": keys, "letter_id": keys["deadletter"], "request_id": keys["controlrequest"]}


def _run(number: int, now: datetime) -> Run:
    run = _described(number, now - timedelta(hours=HOURS))
    counts = [0] * (len(BUCKET_BOUNDS_SECONDS) + 1)
    counts[12] = 800
    owned = range(number, PARTITIONS, WORKERS)
    RunState.objects.create(
        run=run,
        state="ready",
        beat_at=now + timedelta(hours=1),  # not late while it is measured
        rss_bytes=2**27,
        counters={"consumed": 9, "fates": {"delivered": 9}},
        pool={"slots": SLOTS, "busy": 4, "waiting": 7},
        partitions=[_partition(n) for n in owned],
        sinks=[
            {"name": name, "kind": "kafka", "delivered": 9, "latency_counts": counts}
            for name in ("results", "archive")
        ],
    )
    RunTrack.objects.create(
        run=run,
        written_at=now + timedelta(hours=1),
        bounds=BUCKET_BOUNDS_SECONDS,
        samples=[[now.timestamp() - 10 * ago, *_sampled(ago, counts)] for ago in range(65, -1, -1)],
    )
    return run


def _sampled(ago: int, counts: list[int]) -> list[Any]:
    spread, spooled, shed = [n * (66 - ago) for n in counts], 0, 0
    return [[900 - ago] * 5, 7, spread, 5, spooled, shed]


def _described(number: int, started_at: datetime) -> Run:
    return Run.objects.create(
        id=uuid7(started_at.timestamp()),
        cluster="main",
        worker=f"worker-{number % WORKERS}",
        host="node-a",
        pid=4000 + number,
        version="0.1.0",
        isolation="namespace",
        slots=SLOTS,
        config_hash="4f1c2a9be0d17733",
        started_at=started_at,
    )


def _partition(number: int) -> dict[str, Any]:
    at = 48_400
    return {
        "topic": TOPIC,
        "partition": number,
        "epoch": 3,
        "state": "running",
        "queue": number,
        "pending": 4,
        "position": at,
        "committed": at - 20,
        "high_watermark": at + number,
        "lag": number,
        "watermark": at - 20,
        "blocker": {"offset": at, "task_id": f"{number}:{at}:0", "age_seconds": 1.5},
        "strip": [[1, False], [6, True]] * 10,
    }


def _ended(now: datetime, count: int) -> None:
    for number in range(count):
        at = now - timedelta(hours=HOURS, minutes=number + 1)
        RunState.objects.create(run=_described(number, at), state="stopped", beat_at=at)


def _jobs(now: datetime) -> dict[str, Any]:
    """Users, tokens, jobs and replays by the dozen; one of each for the routes that show one."""
    letter = DeadLetter.objects.latest("pk")
    Group.objects.get_or_create(name="viewer")
    for number in range(60):
        user = User.objects.create_user(f"user-{number}")
        issue(user, ["read"], None)
        exported = ExportJob.objects.create(
            id=uuid.uuid4(),
            name=f"export-{number}",
            format="sqlite",
            actor=user.username,
            created_at=now,
            progress_at=now,
        )
        job = LetterJob.objects.create(
            id=uuid.uuid4(),
            key=str(number),
            action="source",
            cluster="main",
            rate=10,
            actor=user.username,
            letters_total=1,
        )
        rerun = RerunJob.objects.create(
            key=str(number),
            cluster="main",
            filter_text="failure=exit",
            rate=50,
            actor=user.username,
        )
        Replay.objects.create(letter=letter, actor=user.username, target_topic=TOPIC, asked_at=now)
    return {"letter_job": job.pk, "rerun": rerun.pk, "export": exported.pk, "user": user.pk}
