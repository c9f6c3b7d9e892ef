"""A reader's end of one live tail: its lease, the run that has the task, and what came since."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from django.db.models.functions import Now

from domain.beat import from_json
from domain.live_tail import LEASE_SECONDS, Piece, TailFacts
from recorder.models import RunState
from workers.control_plane.queries import beats, holder_of, is_live
from workers.models import TailChunk, TailLease

RENEW_SECONDS = LEASE_SECONDS / 3
LOCATE_SECONDS = 2.0
"""Where a task is, is asked so often: its partition may go to another worker."""
MOST_ROWS = 500
EXPIRED_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TailNews:
    """What one look found. ``worker`` has the task; None: no live worker does. ``facts`` are None
    until it told them; ``is_moved``: what came before is of another worker."""

    worker: str | None
    facts: TailFacts | None
    pieces: Sequence[Piece]
    is_moved: bool = False


class TailReader:
    """Reads one tail, on any one thread at a time; ``now`` is monotonic seconds."""

    def __init__(self, cluster: str, task_id: str) -> None:
        self.cluster = cluster
        self.task_id = task_id
        self._lease = uuid.uuid4()
        self._holder: RunState | None = None
        self._facts: TailFacts | None = None
        self._seq = 0
        self._located_at = self._renewed_at = float("-inf")

    def is_lost(self, now: float) -> bool:
        """Whether it has to be asked anew who has the task."""
        return now - self._located_at >= LOCATE_SECONDS

    def look(self, now: float, fleet: Iterable[RunState] | None = None) -> TailNews:
        """Renew the lease, and read what came since the look before. Raises DatabaseError.

        ``fleet``: live runs as they are now; None: as they were.
        """
        is_moved = fleet is not None and self._locate(now, fleet)
        if self._holder is None:
            return TailNews(worker=None, facts=None, pieces=(), is_moved=is_moved)
        if now - self._renewed_at >= RENEW_SECONDS:
            self._renew(now)
        rows = TailChunk.objects.filter(
            run=self._holder.run_id, task_id=self.task_id, seq__gt=self._seq
        )
        pieces = []
        for row in rows.order_by("seq")[:MOST_ROWS]:
            self._seq = row.seq
            if row.data is None:
                self._facts = from_json(TailFacts, row.facts)
            else:
                pieces.append(
                    Piece(
                        attempt=row.attempt or 0,
                        stream=row.stream,
                        offset=row.offset,
                        data=bytes(row.data),
                    )
                )
        return TailNews(
            worker=self._holder.run.worker, facts=self._facts, pieces=pieces, is_moved=is_moved
        )

    def end(self) -> None:
        """Give the lease back; the worker then deletes what nobody else reads. Raises
        DatabaseError."""
        TailLease.objects.filter(id=self._lease).delete()

    def _locate(self, now: float, fleet: Iterable[RunState]) -> bool:
        holder = holder_of(fleet, self.cluster, self.task_id)
        self._located_at = now
        if (holder and holder.run_id) == (self._holder and self._holder.run_id):
            return False
        self._holder, self._facts, self._seq = holder, None, 0
        self._renewed_at = float("-inf")
        return True

    def _renew(self, now: float) -> None:
        assert self._holder is not None
        until = Now() + timedelta(seconds=LEASE_SECONDS)
        held = {"run": self._holder.run_id, "task_id": self.task_id, "expires_at": until}
        TailLease.objects.update_or_create(id=self._lease, defaults=held)
        self._renewed_at = now


def live_fleet(cluster: str = "") -> list[RunState]:
    """Return the beats of all live runs, of one cluster or of all. Raises DatabaseError."""
    return [beat for beat in beats(cluster) if is_live(beat)]


def forget_tails() -> int:
    """Delete the leases that nobody renews, and what dead runs left; return how many rows.

    A run deletes its own as the leases end: this is for those that could not.
    """
    edge = Now() - timedelta(seconds=EXPIRED_SECONDS)
    gone, _ = TailLease.objects.filter(expires_at__lt=edge).delete()
    left, _ = TailChunk.objects.exclude(run__in=TailLease.objects.values("run")).delete()
    return gone + left
