"""What the controller does at intervals; a later job is one more entry of ``JOBS``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from django.db.models import ExpressionWrapper, F, FloatField
from django.db.models.functions import Extract, Now
from django.utils import timezone

from domain.events import Tell, WorkerLost
from recorder.models import RunState, RunStateName
from recorder.partitions import create_ahead
from workers.control_inbox import expire_unanswered
from workers.requests import fail_abandoned

LOST_SECONDS = 10.0
BEATS_BEFORE_JUDGING = 3
ENDED = (RunStateName.STOPPED, RunStateName.LOST)


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What a job may use. ``reached`` counts the controller's own turns that reached Postgres."""

    tell: Tell
    wall: float
    reached: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A name, how often, and what to do. Raises DatabaseError: the controller tries again later."""

    name: str
    interval_seconds: float
    run: Callable[[Turn], None]


def make_partitions(turn: Turn) -> None:
    """Day partitions ahead."""
    create_ahead(timezone.now())


def judge_lost(turn: Turn) -> None:
    """Runs silent for five beats by the database's clock are lost; their next beat takes it back.

    Only a judge that itself reached Postgres for three turns in a row may judge.
    """
    if turn.reached < BEATS_BEFORE_JUDGING:
        return
    silent = RunState.objects.exclude(state__in=ENDED).filter(
        beat_at__lt=Now() - timedelta(seconds=LOST_SECONDS)
    )
    age = ExpressionWrapper(Extract(Now() - F("beat_at"), "epoch"), output_field=FloatField())
    rows = list(silent.annotate(silent_seconds=age).select_related("run"))
    for beat in rows:
        judged = silent.filter(run_id=beat.run_id).update(
            state=RunStateName.LOST, ended_at=F("beat_at")
        )
        if judged:
            turn.tell(
                WorkerLost(
                    at=turn.wall,
                    lost_run=str(beat.run_id),
                    cluster=beat.run.cluster,
                    worker=beat.run.worker,
                    silent_seconds=float(beat.silent_seconds),
                )
            )


def end_stale_requests(turn: Turn) -> None:
    """Requests nobody took, or whose worker ended, get their end."""
    expire_unanswered()
    fail_abandoned(RunState.objects.filter(state__in=ENDED).values("run_id"))


JOBS = (
    Job(name="partitions", interval_seconds=300.0, run=make_partitions),
    Job(name="lost", interval_seconds=2.0, run=judge_lost),
    Job(name="requests", interval_seconds=5.0, run=end_stale_requests),
)
