"""Read what operators asked of a worker, have it done, and write what came of it.

All of it runs on the heartbeat's thread and connection. A row changes its state by
compare-and-set only, so a request is obeyed at most once, and never after it expired; one whose
taking Postgres did not confirm is looked for at the next beat.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future
from datetime import timedelta
from functools import partial

from django.db.models import Q
from django.db.models.functions import Now

from domain.text_bounds import described
from recorder.rows import clean
from recorder.runs import RunDescription
from workers.control import (
    ENDS,
    EXPIRY_SECONDS,
    LASTING,
    MAX_PAUSED,
    Action,
    Answer,
    Arguments,
    Asked,
    ClusterPauses,
    Command,
    Subject,
    check_arguments,
)
from workers.models import ControlRequest, ControlState, StandingPause

logger = logging.getLogger("drakkar.control")

MAX_ORDERS_PER_BEAT = 50
IN_ORDER = ("requested_at", "id")
IN_TIME = Q(requested_at__gt=Now() - timedelta(seconds=EXPIRY_SECONDS))
UNANSWERED = (ControlState.ACCEPTED, ControlState.FAILED)
"""Failed is what a run's request becomes when it is taken for lost: its own word is the truth."""

Obey = Callable[[Command], "Future[Answer]"]
"""Hands a command to the loop; the future holds its answer."""


Rest = Callable[[ClusterPauses], None]
"""Hands what is paused on all workers of the cluster to the loop."""


class ControlInbox:
    """Requests to one run, on their way from row to answer."""

    def __init__(self, run: RunDescription, obey: Obey, rest: Rest) -> None:
        self._run = run
        self._obey = obey
        self._rest = rest
        self._pauses = ClusterPauses()
        self._open: dict[str, Future[Answer]] = {}
        self._has_resumed = False
        self._is_unsure = False

    def turn(self, *, is_last: bool = False) -> None:
        """Answer what is done; accept what is new, but not at the end. Raises DatabaseError."""
        if is_last:
            self._answer()
            return
        if not self._has_resumed:
            self._resume_pauses()
        self._take_cluster_pauses()
        self._answer()
        self._accept()

    def _take_cluster_pauses(self) -> None:
        """Tell the worker when another set of pauses stands; one that cannot be read stays."""
        pauses = cluster_pauses(self._run.cluster)
        if pauses != self._pauses:
            self._rest(pauses)
            self._pauses = pauses

    def _resume_pauses(self) -> None:
        """Take up again the pauses of this name: they outlive its runs until they are ended."""
        for command in standing_pauses(self._run.cluster, self._run.worker):
            self._obey(command).add_done_callback(partial(_say_not_resumed, command))
        self._has_resumed = True

    def _accept(self) -> None:
        if self._is_unsure:
            self._begin_unconfirmed()
        mine = ControlRequest.objects.filter(cluster=self._run.cluster, worker=self._run.worker)
        asked = mine.filter(state=ControlState.REQUESTED).filter(IN_TIME).order_by(*IN_ORDER)
        self._is_unsure = True
        for row in asked[:MAX_ORDERS_PER_BEAT]:
            accepted = (
                asked.filter(id=row.id)
                .order_by()
                .update(state=ControlState.ACCEPTED, accepted_at=Now(), run=self._run.id)
            )
            if accepted:
                self._begin(row)
        self._is_unsure = False

    def _begin_unconfirmed(self) -> None:
        """Postgres may have noted that a request was taken, and its word of it got lost."""
        mine = ControlRequest.objects.filter(cluster=self._run.cluster, worker=self._run.worker)
        taken = mine.filter(state=ControlState.ACCEPTED, run=self._run.id).exclude(
            id__in=self._open
        )
        for row in taken.annotate(is_in_time=IN_TIME).order_by(*IN_ORDER):
            if row.is_in_time:
                self._begin(row)
            else:
                self._refuse(row, "not begun: Postgres was away as it was taken; ask again")

    def _begin(self, row: ControlRequest) -> None:
        try:
            action, arguments = check_arguments(row.action, row.arguments)
        except ValueError as exc:
            self._refuse(row, str(exc))
            return
        command = _command(row, action, arguments)
        self._open[command.id] = self._obey(command)

    def _refuse(self, row: ControlRequest, why: str) -> None:
        refused: Future[Answer] = Future()
        refused.set_result(Answer(is_done=False, detail=why))
        self._open[str(row.id)] = refused

    def _answer(self) -> None:
        for request_id, future in list(self._open.items()):
            if not future.done():
                continue
            answer = _answer_of(future)
            mine = ControlRequest.objects.filter(id=request_id, run=self._run.id)
            mine.filter(state__in=UNANSWERED).update(
                state=ControlState.DONE if answer.is_done else ControlState.FAILED,
                ended_at=Now(),
                detail=clean(answer.detail)[:4000],
                result=answer.result,
            )
            del self._open[request_id]


def _command(row: ControlRequest, action: Action, arguments: Arguments) -> Command:
    return Command(
        id=str(row.id), action=action, arguments=arguments, actor=row.actor, reason=row.reason
    )


def _say_not_resumed(command: Command, future: Future[Answer]) -> None:
    """Log a pause that could not be taken up again: nobody asks for its answer."""
    answer = _answer_of(future)
    if not answer.is_done:
        what = f"{command.action.value} {command.target}"
        logger.error("control: %s of an earlier run does not hold: %s", what, answer.detail)


def _answer_of(future: Future[Answer]) -> Answer:
    if future.cancelled():
        return Answer(is_done=False, detail="the worker ended before it was done")
    error = future.exception()
    if error is None:
        return future.result()
    return Answer(is_done=False, detail=described(error))


def cluster_pauses(cluster: str) -> ClusterPauses:
    """Return what is paused on all workers of a cluster. Raises DatabaseError."""
    rows = StandingPause.objects.filter(cluster=cluster).order_by("subject", "name")
    # Two that asked at once may have passed the bound: the cluster's own pause comes first.
    found = list(rows[: 2 * MAX_PAUSED + 1])
    return ClusterPauses(
        is_paused=any(row.subject == Subject.CLUSTER for row in found),
        groups=frozenset(row.name for row in found if row.subject == Subject.GROUP),
        keys=frozenset(row.name for row in found if row.subject == Subject.KEY),
        asked={
            (row.subject, row.name): Asked(
                request=str(row.request), actor=row.actor, reason=row.reason
            )
            for row in found
        },
    )


def standing_pauses(cluster: str, worker: str) -> list[Command]:
    """Return the pauses of a worker's name that were done and not ended, one an intake or sink."""
    done = ControlRequest.objects.filter(
        cluster=cluster, worker=worker, state=ControlState.DONE, action__in=[*LASTING, *ENDS]
    ).order_by("requested_at", "id")
    last: dict[tuple[Action, str], Command] = {}
    for row in done.iterator():
        try:
            action, arguments = check_arguments(row.action, row.arguments)
        except ValueError:
            continue  # Written by a version that knew other arguments.
        command = _command(row, action, arguments)
        last[ENDS.get(action, action), command.target] = command
    return [command for command in last.values() if command.action in LASTING]
