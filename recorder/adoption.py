"""Takes over the spools of runs that died on this host before Postgres came back."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from pickle import PickleError
from typing import IO
from uuid import UUID

from recorder.models import Run
from recorder.rows import Row
from recorder.spool import SUFFIX, DeadSpool
from recorder.writer import Project, ensure_run, flush_narrowing, no_projection

LOOK_SECONDS = 10.0
BATCHES_A_STEP = 10
DAMAGES = (ValueError, EOFError, TypeError, KeyError, PickleError, AttributeError, IndexError)

logger = logging.getLogger("drakkar.recorder")


class Adoption:
    """Looks for dead spools now and then, and stores one of them a bit at a time.

    For one thread. The file lock makes one heir of many. What the dead run had stored already is
    left out by its ``recorded_seq``, which nobody else moves while the lock is held.
    """

    def __init__(self, directory: Path, own: UUID, project: Project = no_projection) -> None:
        self._directory = directory
        self._own = f"{own}{SUFFIX}"
        self._project = project
        self._spool: DeadSpool | None = None
        self._recorded_seq = 0
        self._look_at = 0.0

    def step(self, now: float) -> list[Row]:
        """Store up to ten batches of a dead run; returns rows that Postgres refused.

        ``now`` is monotonic seconds. Raises DatabaseError (the next step goes on) and OSError.
        """
        if self._spool is None:
            if now < self._look_at:
                return []
            self._look_at = now + LOOK_SECONDS
            self._spool = next(self._dead(), None)
            if self._spool is None:
                return []
            logger.info("recorder: adopting the spool of run %s", self._spool.run.id)
        ensure_run(self._spool.run)
        runs = Run.objects.filter(id=self._spool.run.id)
        self._recorded_seq = runs.values_list("recorded_seq", flat=True).get()
        return self._store(self._spool)

    def close(self) -> None:
        """Leave what is not stored yet to another heir."""
        if self._spool is not None:
            self._spool.close()
            self._spool = None

    def _store(self, spool: DeadSpool) -> list[Row]:
        refused: list[Row] = []
        for _ in range(BATCHES_A_STEP):
            try:
                batch = spool.peek()
            except DAMAGES as exc:
                logger.error("recorder: %d bytes of a spool are lost: %s", spool.left_bytes, exc)
                batch = None
            if batch is None:
                spool.remove()
                self._spool, self._look_at = None, 0.0
                break
            # The compare-and-set would take these again: what it compares with was just read.
            fresh = [row for row in batch if row["seq"] > self._recorded_seq]
            if fresh:
                self._recorded_seq, bad = flush_narrowing(
                    spool.run, fresh, self._recorded_seq, self._project
                )
                refused += bad
            spool.pop()
        return refused

    def _dead(self) -> Iterator[DeadSpool]:
        for path in sorted(self._directory.glob(f"*{SUFFIX}")):
            if path.name == self._own:
                continue
            file = DeadSpool.lock(path)
            if file is not None and (found := _opened(path, file)) is not None:
                yield found


def _opened(path: Path, file: IO[bytes]) -> DeadSpool | None:
    try:
        return DeadSpool(path, file)
    except DAMAGES as exc:
        logger.error("recorder: %s is set aside, it cannot be read: %s", path, exc)
        path.rename(path.with_suffix(".unreadable"))
        file.close()
        return None
