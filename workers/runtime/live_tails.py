"""Live tails: what tasks print while they run, from the loop to rows that readers see.

A reader's lease asks for it. While one stands, the heartbeat's thread writes what came since, four
times a second, on its own connection; without one it looks once a beat, and nothing else is done.
What was written is gone with the last lease: nothing of it is history.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Collection
from typing import Any, Protocol
from uuid import UUID

from django.db.models import Min
from django.db.models.functions import Now

from domain.beat import to_json
from domain.live_tail import KEPT_BYTES, Piece, TailFacts, TailState
from recorder.rows import clean
from workers.models import TailChunk, TailLease

MOST_TAILS = 8
"""Tasks of one worker that are followed at once; any number of readers may follow each."""
TURN_SECONDS = 0.25
REPEAT_SECONDS = 1.0
"""Facts are told so often though they are the same: a reader that hears nothing knows it."""
MAX_PENDING_BYTES = 128 * 1024
"""Output of one task that waits for Postgres; what is older is left out."""
MAX_ROWS = 1000
MAX_ROW_BYTES = 64 * 1024
REFUSED = f"the worker shows {MOST_TAILS} tasks already, as many as it may: close another one"


class Tap:
    """Output and facts of one followed task, between the loop and the heartbeat's thread."""

    def __init__(self, task_id: str) -> None:
        self.task_id = task_id
        self._lock = threading.Lock()
        self._pieces: deque[Piece] = deque()
        self._bytes = 0
        self._facts: TailFacts | None = None

    def write(self, piece: Piece) -> None:
        """Take output; the oldest goes when too much waits."""
        with self._lock:
            self._pieces.append(piece)
            self._bytes += len(piece.data)
            while self._bytes > MAX_PENDING_BYTES and len(self._pieces) > 1:
                self._bytes -= len(self._pieces.popleft().data)

    def tell(self, facts: TailFacts) -> None:
        """Take how the task stands now."""
        with self._lock:
            self._facts = facts

    def take(self) -> tuple[TailFacts | None, list[Piece]]:
        """Return the latest facts (None: not known yet) and the output since the call before."""
        with self._lock:
            pieces = list(self._pieces)
            self._pieces.clear()
            self._bytes = 0
            return self._facts, pieces


class Follower(Protocol):
    """Fills taps from what runs; called from the heartbeat's thread, never blocks."""

    def follow(self, tap: Tap) -> None:
        """Begin to fill a tap, whether its task runs yet or not."""

    def leave(self, tap: Tap) -> None:
        """Fill it no more."""

    def look(self, taps: Collection[Tap]) -> None:
        """Tell each tap how its task stands now."""


class LiveTails:
    """Tails of one run. All methods run on the heartbeat's thread."""

    def __init__(
        self,
        run: UUID,
        follower: Follower,
        now: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        self._run = run
        self._follower = follower
        self._now = now
        self._wall = wall
        self._open: dict[str, _OpenTail] = {}
        self._refused: set[str] = set()

    @property
    def is_followed(self) -> bool:
        """Whether some lease stood at the last turn."""
        return bool(self._open or self._refused)

    def turn(self, *, is_last: bool = False) -> None:
        """Follow what leases ask for, and write what came; at the end, delete it. Raises
        DatabaseError."""
        if is_last:
            self._end()
            return
        wanted = self._wanted()
        for task_id in [each for each in self._open if each not in wanted]:
            self._close(task_id)
        self._refused &= wanted.keys()
        for task_id in wanted:
            if task_id not in self._open:
                self._begin(task_id)
        self._follower.look([each.tap for each in self._open.values()])
        for each in self._open.values():
            each.write(self._now())

    def _end(self) -> None:
        for each in self._open.values():
            self._follower.leave(each.tap)
        if self.is_followed:
            TailChunk.objects.filter(run=self._run).delete()
        self._open.clear()
        self._refused.clear()

    def _wanted(self) -> dict[str, None]:
        """Return the tasks that leases stand for, those asked for first first."""
        standing = TailLease.objects.filter(run=self._run, expires_at__gt=Now())
        by_task = standing.values("task_id").annotate(first=Min("began_at"))
        return dict.fromkeys(by_task.order_by("first").values_list("task_id", flat=True))

    def _begin(self, task_id: str) -> None:
        if len(self._open) < MOST_TAILS:
            self._refused.discard(task_id)
            tail = _OpenTail(self._run, task_id, int(self._wall() * 1000))
            self._follower.follow(tail.tap)
            self._open[task_id] = tail
        elif task_id not in self._refused:
            facts = TailFacts(state=TailState.REFUSED, detail=REFUSED)
            _OpenTail(self._run, task_id, int(self._wall() * 1000)).write_rows(facts, [])
            self._refused.add(task_id)

    def _close(self, task_id: str) -> None:
        self._follower.leave(self._open.pop(task_id).tap)
        TailChunk.objects.filter(run=self._run, task_id=task_id).delete()


class _OpenTail:
    """One followed task and its rows. ``seq`` goes on from the wall clock, so that a tail that
    began anew comes after all that its readers saw."""

    def __init__(self, run: UUID, task_id: str, seq: int) -> None:
        self.tap = Tap(task_id)
        self._run = run
        self._seq = seq
        self._rows: deque[tuple[int, int]] = deque()
        self._bytes = 0
        self._told: TailFacts | None = None
        self._told_at = float("-inf")

    def write(self, now: float) -> None:
        """Write what the tap holds, if it is new. Raises DatabaseError."""
        facts, pieces = self.tap.take()
        is_due = facts is not None and (
            facts != self._told or now - self._told_at >= REPEAT_SECONDS
        )
        if is_due:
            self._told, self._told_at = facts, now
        if is_due or pieces:
            self.write_rows(facts if is_due else None, pieces)

    def write_rows(self, facts: TailFacts | None, pieces: Collection[Piece]) -> None:
        """Append rows, then delete those past the bounds. Raises DatabaseError."""
        rows = [self._row(piece) for piece in _joined(pieces)]
        if facts is not None:
            document: dict[str, Any] = clean({"facts": to_json(facts)})
            rows.append(self._next(attempt=facts.attempt, facts=document["facts"]))
        TailChunk.objects.bulk_create(rows)
        oldest = self._seq
        while self._rows and (self._bytes > KEPT_BYTES or len(self._rows) > MAX_ROWS):
            oldest, size = self._rows.popleft()
            self._bytes -= size
        if oldest != self._seq:
            mine = TailChunk.objects.filter(run=self._run, task_id=self.tap.task_id)
            mine.filter(seq__lte=oldest).delete()

    def _row(self, piece: Piece) -> TailChunk:
        return self._next(
            attempt=piece.attempt, stream=piece.stream, offset=piece.offset, data=piece.data
        )

    def _next(self, **values: Any) -> TailChunk:
        self._seq += 1
        size = len(values.get("data", b""))
        self._rows.append((self._seq, size))
        self._bytes += size
        return TailChunk(run=self._run, task_id=self.tap.task_id, seq=self._seq, **values)


def _joined(pieces: Collection[Piece]) -> list[Piece]:
    """Return the pieces of each stream that follow one another as one, in order."""
    found: list[Piece] = []
    last: dict[str, int] = {}
    for piece in pieces:
        place = last.get(piece.stream)
        before = None if place is None else found[place]
        is_next = before and (before.attempt, before.end) == (piece.attempt, piece.offset)
        if before and is_next and len(before.data) + len(piece.data) <= MAX_ROW_BYTES:
            found[last[piece.stream]] = Piece(
                attempt=piece.attempt,
                stream=piece.stream,
                offset=before.offset,
                data=before.data + piece.data,
            )
        else:
            last[piece.stream] = len(found)
            found.append(piece)
    return found
