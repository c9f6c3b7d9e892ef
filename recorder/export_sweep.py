"""Removes files of exports that no job will finish or give out.

A controller that is killed leaves the file that it was writing; one without its database leaves
finished ones. Only names that ``export_jobs`` makes are looked at.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from uuid import UUID

from recorder.export_jobs import ExportLimits
from recorder.formats import PACKED, WRITERS
from recorder.models import ExportJob, ExportState

MAX_LOOKED_AT = 10_000
MAX_REMOVED = 1000
RESTED_SECONDS = 3600.0
"""A file that was written to since may be another controller's, whose job is not seen yet."""
_SUFFIX = rf"\.(?:{'|'.join(WRITERS)})(?:{re.escape(PACKED)})?"
_ID = "-".join(f"[0-9a-f]{{{length}}}" for length in (8, 4, 4, 4, 12))
_NAME = re.compile(rf"({_ID})(?:{_SUFFIX})(?:(?:\.[0-9a-f]{{8}})?\.part(?:-journal|-wal|-shm)?)?")
KEPT = (ExportState.QUEUED, ExportState.RUNNING, ExportState.DONE)
"""Jobs whose file is given out, or was finished in this moment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A file of an export's name, and how long nobody has written to it."""

    name: str
    job: UUID
    rested_seconds: float

    def is_needed(self, state: str | None, ttl_hours: float) -> bool:
        """Whether its job, in that state, is still to write it or to give it out.

        A job that is not known may be another site's in the same folder: it has its time.
        """
        if self.rested_seconds < RESTED_SECONDS:
            return True
        if ".part" in self.name:
            return False  # each writer has one of its own, and writes to it in each step
        if state is None:
            return self.rested_seconds < ttl_hours * 3600.0
        return state in KEPT


def sweep(limits: ExportLimits) -> Sequence[str]:
    """Remove them; their names. Raises DatabaseError and OSError."""
    if not limits.folder.is_dir():
        return []
    found = list(islice(_files(limits.folder), MAX_LOOKED_AT))
    jobs = ExportJob.objects.filter(id__in={each.job for each in found})
    states = dict(jobs.values_list("id", "state"))
    over = [each for each in found if not each.is_needed(states.get(each.job), limits.ttl_hours)]
    for each in over[:MAX_REMOVED]:
        (limits.folder / each.name).unlink(missing_ok=True)
    return [each.name for each in over[:MAX_REMOVED]]


def _files(folder: Path) -> Iterator[Found]:
    now = time.time()
    with os.scandir(folder) as entries:
        for entry in entries:
            match = _NAME.fullmatch(entry.name)
            if match is not None and entry.is_file(follow_symlinks=False):
                rested = now - entry.stat(follow_symlinks=False).st_mtime
                yield Found(name=entry.name, job=UUID(match[1]), rested_seconds=rested)
