"""Takes over the spools of runs that died on this host before Postgres came back."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from uuid import UUID

from django.db import DatabaseError

from domain.events import RecorderShed
from recorder.rows import Row
from recorder.shedding import ShedAccount
from recorder.spool import SUFFIX, DeadSpool
from recorder.writer import (
    Project,
    ensure_run,
    flush_narrowing,
    is_about_the_rows,
    no_projection,
    stored_seq,
)

LOOK_SECONDS = 10.0
BATCHES_A_STEP = 10

logger = logging.getLogger("drakkar.recorder")


class Adoption:
    """Looks for dead spools now and then, and stores one of them a bit at a time.

    For one thread. The file lock makes one heir of many. What the dead run had stored already is
    left out by its ``recorded_seq``, which nobody else moves while the lock is held. What cannot be
    adopted (another user's file, something that is no spool) is said once and passed over.
    """

    def __init__(self, directory: Path, own: UUID, project: Project = no_projection) -> None:
        self._directory = directory
        self._own = f"{own}{SUFFIX}"
        self._project = project
        self._spool: DeadSpool | None = None
        self._recorded_seq = 0
        self._refused: dict[int, Row] = {}
        self._shed = ShedAccount()
        self._look_at = 0.0
        self._said: set[str] = set()

    def step(self, now: float, wall: float = 0.0) -> list[RecorderShed]:
        """Store up to ten batches of a dead run; returns what is to be told of rows refused.

        ``now`` is monotonic seconds, ``wall`` epoch seconds. Raises DatabaseError (the next step
        goes on).
        """
        if self._spool is None:
            if now < self._look_at:
                return []
            self._look_at = now + LOOK_SECONDS
            self._spool = next(self._dead(), None)
            if self._spool is None:
                return []
            logger.info("recorder: adopting the spool of run %s", self._spool.run.id)
        of_run = str(self._spool.run.id)
        if self._is_known(self._spool):
            self._store(self._spool)
        account = self._shed.settle(wall)
        return [] if account is None else [replace(account, of_run=of_run)]

    def close(self) -> None:
        """Leave what is not stored yet to another heir."""
        if self._spool is not None:
            self._spool.close()
            self._spool = None

    def _is_known(self, spool: DeadSpool) -> bool:
        """Whether the run is in the database; one whose description it refuses is set aside."""
        try:
            ensure_run(spool.run)
        except (
            DatabaseError,
            OverflowError,
            ValueError,
            TypeError,
            AttributeError,
            OSError,
        ) as exc:
            if isinstance(exc, DatabaseError) and not is_about_the_rows(exc):
                raise
            self._give_up(spool, exc)
            return False
        self._recorded_seq = stored_seq(spool.run.id) or 0
        return True

    def _store(self, spool: DeadSpool) -> None:
        for _ in range(BATCHES_A_STEP):
            try:
                batch = spool.peek()
            except EOFError as exc:  # its writer was killed in the midst of a batch
                logger.error("recorder: %d bytes of a spool are lost: %s", spool.left_bytes, exc)
                batch = None
            except Exception as exc:  # noqa: BLE001 - damaged bytes may raise anything
                self._give_up(spool, exc)
                return
            if batch is None:
                spool.remove()
                self._spool, self._look_at = None, 0.0
                return
            # The compare-and-set would take these again: what it compares with was just read.
            fresh = [row for row in batch if row["seq"] > self._recorded_seq]
            if fresh:
                self._recorded_seq, bad = flush_narrowing(
                    spool.run, fresh, self._recorded_seq, self._project, self._refused
                )
                self._shed.add(bad)
                self._refused.clear()
            spool.pop()

    def _give_up(self, spool: DeadSpool, error: Exception) -> None:
        """Nothing more of it can be stored: it is kept under another name."""
        self._spool, self._look_at = None, 0.0
        self._shed.add(self._refused.values())
        self._refused.clear()
        logger.error("recorder: %d bytes of the spool of run %s are set aside, they cannot be "
                     "stored: %s", spool.left_bytes, spool.run.id, error)  # fmt: skip
        try:
            spool.set_aside()
        except OSError as exc:
            self._pass_over(spool.path, exc)

    def _dead(self) -> Iterator[DeadSpool]:
        """Return the spools that can be adopted now, each locked."""
        for path in sorted(self._directory.glob(f"*{SUFFIX}")):
            if path.name == self._own or path.name in self._said:
                continue
            found = self._tried(path)
            if found is not None:
                yield found

    def _tried(self, path: Path) -> DeadSpool | None:
        try:
            file = DeadSpool.lock(path)
        except OSError as exc:
            self._pass_over(path, exc)
            return None
        if file is None:
            return None
        try:
            return DeadSpool(path, file)
        except Exception as exc:  # noqa: BLE001 - damaged bytes may raise anything
            file.close()
            logger.error("recorder: %s is set aside, it cannot be read: %s", path, exc)
            try:
                path.rename(path.with_suffix(".unreadable"))
            except OSError as refused:
                self._pass_over(path, refused)
            return None

    def _pass_over(self, path: Path, error: OSError) -> None:
        """Say once that a file is left where it is; the next ones are adopted all the same."""
        self._said.add(path.name)
        logger.error("recorder: %s is passed over, it cannot be adopted: %s", path, error)
