"""What people did on the sample fleet's site, and the metrics of its workers."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from django.contrib.auth.models import User
from django.utils import timezone
from prometheus_client import CollectorRegistry, Counter, Gauge

from drakkar_site.accounts.tokens import issue
from recorder.models import Run, RunState
from workers.models import (
    ControlRequest,
    ControlState,
    FindingEpisode,
    Notice,
    NoticeReceiver,
    NoticeState,
)
from workers.runtime.metric_snapshot import metric_snapshot

PAUSE = {"topic": "search.requests", "partition": 23}
ASKED: list[tuple[str, str, dict[str, Any], str, str]] = [
    ("worker-1", "pause_partition", PAUSE, "done", "paused"),
    ("worker-2", "test_sink", {"sink": "archive"}, "failed", "server selection timed out"),
    ("worker-3", "drain", {}, "expired", "no worker took it within 60 s"),
    ("worker-3", "pause_intake", {}, "requested", ""),
]


def notices() -> None:
    """What these were told: a finding that ended, and one that lasts; one of them is away."""
    now = timezone.now()
    blocked = {"title": "Partition 48 of search.requests: commit blocked by 48:48428:0"}
    away = {"title": "Sink archive (mongo) on worker-2: breaker open"}
    told: list[tuple[int, str, str, str, dict[str, str]]] = [
        (31, "team", "started", NoticeState.SENT, blocked),
        (24, "team", "ended", NoticeState.SENT, blocked),
        (2, "team", "started", NoticeState.SENT, away),
        (2, "night", "started", NoticeState.QUEUED, away),
    ]
    for minutes, receiver, change, state, texts in told:
        at, is_sent = now - timedelta(minutes=minutes), state == NoticeState.SENT
        Notice.objects.create(
            receiver=receiver, change=change, severity="page", cluster="main", state=state,
            created_at=at, sent_at=at if is_sent else None, attempts=1 if is_sent else 3, **texts,
        )  # fmt: skip
    NoticeReceiver.objects.create(name="team", sent_at=now - timedelta(minutes=2))
    failed = {"error": "HTTP 503", "error_at": now - timedelta(seconds=20), "failures_in_a_row": 3}
    NoticeReceiver.objects.create(name="night", next_at=now + timedelta(seconds=40), **failed)
    FindingEpisode.objects.create(
        key="breaker_open:main:worker-2/archive", kind="breaker_open", cluster="main",
        severity="page", detail="server selection timed out. Next probe in 8 s.", path="/sinks",
        anchor="breaker-open", began_at=now - timedelta(minutes=2), seen_at=now,
        told_severity="page", **away,
    )  # fmt: skip


def people(user: User) -> None:
    """Requests in each state that a person meets, and a token of a program."""
    now = timezone.now()
    for number, (worker, action, arguments, state, detail) in enumerate(ASKED):
        is_open = state == ControlState.REQUESTED
        at = now - timedelta(minutes=0 if is_open else 9 - 3 * number)
        ControlRequest.objects.create(
            key=f"sample-{number}",
            cluster="main",
            worker=worker,
            action=action,
            arguments=arguments,
            state=state,
            detail=detail,
            actor=user.username,
            user=user,
            requested_at=at,
            ended_at=None if is_open else at + timedelta(seconds=1.4),
        )
    issue(user, ["read", "export"], now + timedelta(days=90))


def metrics(runs: Sequence[Run]) -> None:
    """A few of a worker's own, the same for each."""
    registry = CollectorRegistry()
    messages = Counter("drakkar_messages", "Messages by fate", ["fate"], registry=registry)
    for fate, count in (("delivered", 79_000), ("filtered", 900), ("dead_lettered", 6)):
        messages.labels(fate=fate).inc(count)
    lag = Gauge("drakkar_partition_lag", "Messages behind", ["partition"], registry=registry)
    for partition in range(4):
        lag.labels(partition=partition).set(37 * partition)
    RunState.objects.filter(run__in=runs).update(metrics=metric_snapshot(registry))
