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
from django.db.models import Model
from django.utils import timezone

from domain import events as told
from drakkar_site.accounts.tokens import issue
from recorder.message_row import fold
from recorder.models import Event, ExportJob, Run, RunState, RunTrack
from recorder.partitions import Span, create_ahead, create_span
from recorder.runs import uuid7
from sinks.models import DeadLetter, LetterJob, Replay
from sinks.statistics import BUCKET_BOUNDS_SECONDS
from workers.models import RerunJob

TOPIC = "search.requests"
WORKERS, PARTITIONS, SLOTS = 10, 50, 8
EVENTS_A_MESSAGE = 8
DAYS, RUNS = 400, 5_000
"""Days of history, each with a table, and the runs of that time: half of the messages are of the
last day."""
SMALL_DAYS, SMALL_RUNS = 2, 60
FAMILIES, FAMILY_SAMPLES = 60, 14
"""Metrics of a live worker, about as many as one of the demo has."""
LONG_EVENTS = 500_000
"""From so many events on the history is as long as it may get."""
# Message m is of partition m % 50; partition p belongs to worker p % 10, whose runs follow one
# another. Of two rounds through the partitions one went as usual: each message a row.
PLACES = f"""
WITH told AS (
    SELECT m, m %% {PARTITIONS} AS partition, m / {PARTITIONS} AS "offset",
        format('%%s:%%s:0', m %% {PARTITIONS}, m / {PARTITIONS}) AS task_id,
        jsonb_build_object('tenant', 'tenant-' || m %% 97) AS labels,
        CASE WHEN m * 2 < %(messages)s
            THEN (%(days)s - 1) * (1 - 2 * m::float / %(messages)s) + 1
            ELSE 2 * (1 - m::float / %(messages)s) END AS age_days
    FROM generate_series(0, %(messages)s - 1) m
), placed AS (
    SELECT *, %(now)s - interval '1 day' * age_days AS began, (%(runs)s::uuid[])[
        least(%(lives)s - 1, floor((%(days)s - age_days) * %(lives)s / %(days)s)::int)
        * {WORKERS} + m %% {WORKERS} + 1] AS run
    FROM told
)
INSERT INTO recorder_event (ts, run, seq, kind, topic, partition, "offset", task_id, slot,
    exit_code, duration_ms, queue_ms, attempt, sink, labels, args, stdout, stdout_size, data)
"""  # noqa: S608 - constants of this module only
FOLDED = f"""{PLACES}
SELECT began + interval '300 ms', run, m / {WORKERS} * {EVENTS_A_MESSAGE} + 7, 'message',
    '{TOPIC}', partition, "offset", NULL, NULL, NULL, 240.0, NULL, NULL, NULL, NULL, NULL, NULL,
    NULL,
    replace(%(folded)s, 'tenant-1234', 'tenant-' || m %% 97)::jsonb
FROM placed WHERE m / {PARTITIONS} %% 2 = 1
"""  # noqa: S608 - constants of this module only
EVENTS = f"""{PLACES}
SELECT began + interval '1 ms' * 40 * k, run, m / {WORKERS} * {EVENTS_A_MESSAGE} + k,
    CASE WHEN kind = 'task_completed' AND m %% 40 = 0 THEN 'task_failed' ELSE kind END,
    '{TOPIC}', partition, "offset", CASE WHEN is_task THEN task_id END,
    CASE WHEN is_task THEN m %% {SLOTS} END,
    CASE WHEN kind = 'task_completed' THEN CASE WHEN m %% 40 = 0 THEN 3 ELSE 0 END END,
    CASE WHEN kind LIKE 'task_c%%' THEN 40.0 + m %% 300 END,
    CASE WHEN kind LIKE 'task_%%' THEN 5.0 END,
    CASE WHEN is_task THEN 1 END,
    CASE WHEN kind = 'delivered' THEN 'results' END,
    labels,
    CASE WHEN kind LIKE 'task_c%%' THEN '["-e", "needle", "corpus/c7/0188.txt"]'::jsonb END,
    CASE WHEN kind LIKE 'task_c%%' THEN '12:needle\n'::bytea END,
    CASE WHEN kind LIKE 'task_c%%' THEN 10 END,
    CASE kind WHEN 'arranged' THEN jsonb_build_object('task_ids', jsonb_build_array(task_id))
        WHEN 'message_completed' THEN '{{"fate": "delivered"}}'::jsonb END
FROM placed CROSS JOIN (VALUES
    (1, 'consumed', false), (2, 'arranged', false), (3, 'task_started', true),
    (4, 'task_completed', true), (5, 'collected', true), (6, 'delivered', true),
    (7, 'message_completed', false), (8, 'committed', false)) told (k, kind, is_task)
WHERE m / {PARTITIONS} %% 2 = 0
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
GROUPS = """
INSERT INTO recorder_failuregroup (fingerprint, cluster, kind, title, first_seen, last_seen, count,
    letters, state, owner, note, changed_by)
SELECT lpad(to_hex(n), 20, '0'), 'main', 'exit', 'exit 3: cannot open <path> of part ' || n,
    %(now)s - CASE WHEN n %% 9 = 0 THEN interval '1 minute' ELSE interval '1 day' END,
    %(now)s - interval '1 second' * n, %(spans)s * 3, 1, 'open', '', '',
    '' FROM generate_series(1, %(groups)s) n
"""
FAILURES = f"""
INSERT INTO recorder_failurecount ("group", run, start, count, letters, labels, samples)
SELECT lpad(to_hex(n), 20, '0'), (%(runs)s::uuid[])[cardinality(%(runs)s::uuid[]) - n %% {WORKERS}],
    date_trunc('hour', %(now)s) - interval '5 minutes' * span, 3, 0,
    jsonb_build_object('tenant', jsonb_build_object('tenant-' || n %% 97, 2, 'tenant-7', 1)),
    jsonb_build_array(jsonb_build_array(%(now)s::timestamptz, 'task_failed', '{TOPIC}', 7, 100,
        '7:100:0', 1))
FROM generate_series(1, %(groups)s) n, generate_series(0, %(spans)s - 1) span
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
    is_long = events >= LONG_EVENTS
    days, count = (DAYS, RUNS) if is_long else (SMALL_DAYS, SMALL_RUNS)
    create_days(now, days)
    runs = _runs(now, days, count)
    messages = max(PARTITIONS, events // EVENTS_A_MESSAGE)
    asked: dict[str, Any] = {"now": now, "messages": messages, "runs": [run.id for run in runs]}
    asked |= {"days": days, "lives": count // WORKERS, "folded": _folded()}
    asked |= {"letters": max(60, events // 50), "asked": max(60, events // 100)}
    asked |= {"groups": 500 if is_long else 60, "spans": 288 if is_long else 24}
    with connection.cursor() as cursor:
        for statement in (FOLDED, EVENTS, LETTERS, GROUPS, FAILURES, ASKED, AUDIT):
            cursor.execute(statement, asked)
        cursor.execute("ANALYZE")
    Run.objects.filter(id__in=asked["runs"]).update(
        recorded_seq=(messages // WORKERS + 1) * EVENTS_A_MESSAGE
    )
    _jobs(now)
    return sample()


def sample() -> dict[str, Any]:
    """What the arguments of the URL map may be, of what was made before too."""
    newest = {name: _newest(model).pk for name, model in _JOBS.items()}
    message = Event.objects.filter(kind="message_completed", partition=7).order_by("-ts").first()
    assert message is not None
    user = User.objects.filter(username__startswith="user-").latest("pk")
    return {**newest, **_rows(), "user": user.pk, "offset": message.offset}


def create_days(now: datetime, days: int) -> None:
    """Make the tables of past days, and of those ahead."""
    create_ahead(now)
    for ago in range(days + 1):
        create_span(Span.of_day((now - timedelta(days=ago)).date()))


def _folded() -> str:
    """Return ``data`` of the row of a message that went as usual."""
    at, task = 1_790_000_000.0, "7:7:0"
    place: dict[str, Any] = {"topic": TOPIC, "partition": 7, "offset": 7}
    labels = {"tenant": "tenant-1234"}
    ran: dict[str, Any] = {"task_id": task, "slot": 2, "attempt": 1, "queue_ms": 5.0}
    ran |= {"labels": labels, "args": ("-e", "needle", "corpus/c7/0188.txt")}
    events: list[told.Event] = [
        told.Consumed(at=at, timestamp=1_790_000_000_123, size_bytes=77, **place),
        told.Arranged(
            at=at + 0.04, labels=labels, duration_ms=0.2, task_ids=[task], batch_messages=1, **place
        ),
        told.TaskStarted(at=at + 0.08, source_offsets=[7], **ran, **place),
        told.TaskCompleted(
            at=at + 0.12, exit_code=0, pid=4711, duration_ms=40.0, stdout=None, stderr=None,
            stdout_size=10, stderr_size=0, started_at=at + 0.08, user_cpu_seconds=0.01,
            system_cpu_seconds=0.01, max_rss_bytes=2**22, **ran, **place,
        ),
        told.Collected(
            at=at + 0.16, task_id=task, hook="collect", payloads=1, duration_ms=0.1, **place
        ),
        told.Delivered(
            at=at + 0.2, task_id=task, sink="results", sink_kind="kafka", attempt=1,
            delivery_id="main/7/7/0", duration_ms=1.0, queue_ms=1.0, **place,
        ),
        told.MessageCompleted(
            at=at + 0.24, fate="delivered", duration_ms=240.0, reason="", **place
        ),
    ]  # fmt: skip
    return str(fold(events, 1)["data"])


_JOBS: dict[str, type[Model]] = {"letter_job": LetterJob, "rerun": RerunJob, "export": ExportJob}


def _newest(model: type[Model]) -> Model:
    row = model._default_manager.order_by("-pk").first()
    assert row is not None
    return row


def _rows() -> dict[str, Any]:
    """A row of each model, by its lower name: what the admin and some pages show one of."""
    models = [each for each in apps.get_models() if each._meta.app_label != "contenttypes"]
    newest = {
        each._meta.model_name: each._default_manager.order_by("-pk").first() for each in models
    }
    keys = {name: row.pk for name, row in newest.items() if row is not None}
    return {
        "rows": keys,
        "letter_id": keys["deadletter"],
        "request_id": keys["controlrequest"],
        "fingerprint": keys["failuregroup"],
    }


def _runs(now: datetime, days: int, count: int) -> list[Run]:
    """Make the runs of that time, those of the workers beside one another; the latest live."""
    lasts = timedelta(days=days) / (count // WORKERS)
    first = now - timedelta(days=days)
    runs = [_described(n, first + n // WORKERS * lasts) for n in range(count)]
    Run.objects.bulk_create(runs)
    RunState.objects.bulk_create(
        RunState(
            run=run,
            state="stopped",
            beat_at=run.started_at + lasts,
            ended_at=run.started_at + lasts,
            counters={"consumed": 9, "fates": {"delivered": 9}},
        )
        for run in runs[:-WORKERS]
    )
    for number, run in enumerate(runs[-WORKERS:]):
        _live(run, number, now)
    return runs


def _live(run: Run, number: int, now: datetime) -> None:
    counts = [0] * (len(BUCKET_BOUNDS_SECONDS) + 1)
    counts[12] = 800
    owned = range(number, PARTITIONS, WORKERS)
    RunState.objects.create(
        run=run,
        state="ready",
        beat_at=now + timedelta(hours=1),  # not late while it is measured
        rss_bytes=2**27,
        metrics=metrics_of_a_worker(),
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


def metrics_of_a_worker() -> dict[str, Any]:
    """Return metrics as ``workers.runtime.metric_snapshot`` keeps them."""
    families = []
    for family in range(FAMILIES):
        name = f"drakkar_family_{family}"
        samples = [
            [f"{name}_total", {"topic": TOPIC, "partition": str(n)}, 1234.5 + n]
            for n in range(FAMILY_SAMPLES)
        ]
        told = {"name": name, "type": "counter", "help": "Messages of this family so far."}
        families.append({**told, "samples": samples})
    return {"families": families, "left_out": 0}


def _sampled(ago: int, counts: list[int]) -> list[Any]:
    spread, spooled, shed = [n * (66 - ago) for n in counts], 0, 0
    return [[900 - ago] * 5, 7, spread, 5, spooled, shed]


def _described(number: int, started_at: datetime) -> Run:
    return Run(
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


def _jobs(now: datetime) -> None:
    """Make users, tokens, jobs and replays by the dozen."""
    letter = DeadLetter.objects.latest("pk")
    Group.objects.get_or_create(name="viewer")
    for number in range(60):
        user = User.objects.create_user(f"user-{number}")
        issue(user, ["read"], None)
        ExportJob.objects.create(
            id=uuid.uuid4(),
            name=f"export-{number}",
            format="sqlite",
            actor=user.username,
            created_at=now,
            progress_at=now,
        )
        LetterJob.objects.create(
            id=uuid.uuid4(),
            key=str(number),
            action="source",
            cluster="main",
            rate=10,
            actor=user.username,
            letters_total=1,
        )
        RerunJob.objects.create(
            key=str(number),
            cluster="main",
            filter_text="failure=exit",
            rate=50,
            actor=user.username,
        )
        Replay.objects.create(letter=letter, actor=user.username, target_topic=TOPIC, asked_at=now)
