"""Deletes what has served: sessions past their time; requests, jobs and notices past their days."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from typing import Any

from django.apps import apps
from django.db.models import Exists, OuterRef, Q, QuerySet

from recorder.audit_retention import delete_oldest
from recorder.models import ExportJob, ExportState
from sinks.letter_jobs import FINAL as FINAL_OF_LETTERS
from sinks.models import LetterJob
from workers.control import LASTING, Action
from workers.control_plane.rerun.jobs import FINAL as FINAL_OF_RERUNS
from workers.models import (
    ControlRequest,
    ControlState,
    FindingEpisode,
    Notice,
    NoticeReceiver,
    NoticeState,
    RerunJob,
    RerunMessage,
)

SESSION = "sessions.Session"
"""By its label: the app that uses it stands above this one."""
ENDED = (ControlState.DONE, ControlState.FAILED, ControlState.EXPIRED)
GIVEN_OUT = (ExportState.FAILED, ExportState.EXPIRED)
"""An export that is done first expires, with its file."""


def prune(
    days: int, history_days: int, receivers: Collection[str], now: datetime
) -> Mapping[str, int]:
    """Delete the oldest of each kind; how many went. Raises DatabaseError.

    ``receivers`` are those of the configuration: of all others every notice goes at that age.

    A rerun stays as long as the history tells of the failures it was for, or they would be found
    again.
    """
    edge = now - timedelta(days=days)
    edge_of_reruns = now - timedelta(days=max(days, history_days + 1))
    return {
        "sessions past their time": delete_oldest(ended_sessions(now), "expire_date"),
        "control requests": delete_oldest(ended_requests(edge), "requested_at"),
        "exports": delete_oldest(
            ExportJob.objects.filter(state__in=GIVEN_OUT, created_at__lt=edge), "created_at"
        ),
        "jobs of dead letters": delete_oldest(
            LetterJob.objects.filter(state__in=FINAL_OF_LETTERS, created_at__lt=edge), "created_at"
        ),
        "messages of reruns": delete_oldest(
            RerunMessage.objects.filter(job__in=ended_reruns(edge_of_reruns)), "id"
        ),
        "reruns": delete_oldest(
            ended_reruns(edge_of_reruns).filter(messages__isnull=True), "created_at"
        ),
        "notices": delete_oldest(served_notices(receivers, edge), "created_at"),
        "ended episodes of findings": delete_oldest(
            FindingEpisode.objects.filter(ended_at__lt=edge), "ended_at"
        ),
        "receivers that are no more": delete_oldest(former_receivers(receivers), "name"),
    }


def served_notices(receivers: Collection[str], edge: datetime) -> QuerySet[Notice]:
    """Return the notices older than the edge that nobody waits for any more."""
    rows = Notice.objects.filter(created_at__lt=edge)
    return rows.exclude(receiver__in=receivers, state=NoticeState.QUEUED)


def former_receivers(receivers: Collection[str]) -> QuerySet[NoticeReceiver]:
    """Return the receivers that the configuration knows no more and that have no notice left."""
    theirs = Notice.objects.filter(receiver=OuterRef("name"))
    return NoticeReceiver.objects.exclude(name__in=receivers).exclude(Exists(theirs))


def ended_reruns(edge: datetime) -> QuerySet[RerunJob]:
    """Return the reruns that were asked for before the edge and have ended."""
    return RerunJob.objects.filter(state__in=FINAL_OF_RERUNS, created_at__lt=edge)


def ended_sessions(now: datetime) -> QuerySet[Any]:
    """Return the sessions that ``clearsessions`` would delete."""
    found: QuerySet[Any] = apps.get_model(SESSION)._default_manager.filter(expire_date__lt=now)
    return found


def ended_requests(edge: datetime) -> QuerySet[ControlRequest]:
    """Requests that ended before the edge, without the pauses that a worker would resume."""
    rows = ControlRequest.objects.filter(state__in=ENDED, requested_at__lt=edge)
    for pause, resume in LASTING.items():
        rows = rows.exclude(Q(action=pause, state=ControlState.DONE) & ~_is_over(pause, resume))
    return rows


def _is_over(pause: Action, resume: Action) -> Exists:
    """Tell whether a later request settled the same intake or sink of the same worker.

    Rows go oldest first, so a pause goes before what ended it: none comes back to life.
    """
    later = ControlRequest.objects.filter(
        cluster=OuterRef("cluster"),
        worker=OuterRef("worker"),
        action__in=(pause, resume),
        state=ControlState.DONE,
        arguments=OuterRef("arguments"),
        requested_at__gt=OuterRef("requested_at"),
    )
    return Exists(later)
