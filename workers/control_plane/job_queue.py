"""Queues of what people asked the controller for: each job is claimed, run, and ended once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Generic, TypeVar
from uuid import uuid4

from django.db import DatabaseError, transaction
from django.db.models import Model
from django.db.models.functions import Now

from domain.paging import BadFilter, Page, page

SILENT_SECONDS = 60.0
"""A job whose runner noted nothing for so long is another's to take."""
Job = TypeVar("Job", bound=Model)
Note = Callable[..., None]
"""Notes columns of the job that is run, and that its runner lives. Raises ClaimLost."""

logger = logging.getLogger("drakkar.controller")


class ClaimLost(Exception):
    """Another controller took the job over; this one lets go of it."""


def listed(jobs: Any, states: Sequence[str], *, cluster: str, state: str, older: str) -> Page[Any]:
    """Return a page of jobs, newest first: of a cluster and in a state unless empty.

    Raises BadFilter naming the field, expected and got.
    """
    if state and state not in states:
        raise BadFilter(f"state: expected one of {', '.join(states)}, got {state[:40]}")
    given = {"cluster": cluster, "state": state}
    rows = jobs.filter(**{name: text for name, text in given.items() if text})
    try:
        return page(rows, "created_at", older=older)
    except ValueError as exc:
        raise BadFilter(str(exc)) from None


@dataclass(frozen=True, slots=True)
class JobQueue(Generic[Job]):
    """Rows with ``state``, ``claim``, ``created_at``, ``progress_at``, ``finished_at``, ``error``
    and a column ``done`` that counts from 0 in each run.

    ``claim`` is the runner's own key: who finds another one there has lost the job.
    """

    model: type[Job]
    done: str

    @property
    def _rows(self) -> Any:
        return self.model._default_manager

    def claim(self) -> Job | None:
        """Take the oldest waiting job, or one whose runner is silent; None without any."""
        silent = Now() - timedelta(seconds=SILENT_SECONDS)
        with transaction.atomic():
            self._rows.filter(state="running", progress_at__lt=silent).update(
                state="queued", claim=None
            )
            waiting = self._rows.select_for_update(skip_locked=True).filter(state="queued")
            job = waiting.order_by("created_at").first()
            if job is None:
                return None
            job.claim = uuid4()
            setattr(job, self.done, 0)
            self._rows.filter(pk=job.pk).update(
                claim=job.claim, state="running", progress_at=Now(), **{self.done: 0}
            )
        found: Job = job
        return found

    def note(self, job: Any, **values: Any) -> None:
        """Write columns of a claimed job. Raises ClaimLost and DatabaseError."""
        own = self._rows.filter(pk=job.pk, claim=job.claim, state="running")
        if not own.update(progress_at=Now(), **values):
            raise ClaimLost(str(job.pk))

    def finish(self, job: Any, **values: Any) -> None:
        """Write how a claimed job ended. Raises ClaimLost and DatabaseError."""
        self.note(job, finished_at=Now(), **{self.done: getattr(job, self.done)} | values)

    def run_waiting(self, run: Callable[[Job, Note], Mapping[str, Any]]) -> int:
        """Run every waiting job, one after the other; return how many. Raises DatabaseError.

        ``run`` does one and returns the columns that say how it ended.
        """
        count = 0
        while (job := self.claim()) is not None:
            count += 1
            name = f"{self.model._meta.verbose_name} {job.pk}"
            try:
                self.finish(job, **run(job, lambda job=job, **values: self.note(job, **values)))
            except ClaimLost:
                logger.warning("controller: another one took %s over", name)
            except DatabaseError:
                raise
            except Exception as exc:
                logger.exception("controller: %s failed", name)
                self.finish(job, state="failed", error=f"{type(exc).__name__}: {exc}"[:500])
        return count
