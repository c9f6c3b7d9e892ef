"""Events that wait for Postgres, oldest first: a batch in flight, then disk, then memory."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pickle import PickleError

from recorder.message_row import count_of
from recorder.rows import Row, size_bytes
from recorder.shedding import SHED_IN_TURN, ShedAccount
from recorder.spool import Spool, record_of

BATCH_ROWS = 1000
BATCH_BYTES = 4 * 1024 * 1024
UNWRITABLE = (PickleError, TypeError, AttributeError, ValueError, RecursionError)

logger = logging.getLogger("drakkar.recorder")


@dataclass(slots=True)
class _Chunk:
    """Rows that go to disk or to Postgres together."""

    rows: list[Row]
    size_bytes: int
    events: int = 0


class Backlog:
    """One FIFO in three places. Not safe for threads: each call needs the same lock.

    ``next_batch`` lends the oldest rows out, and they stay first in line until ``stored``: when the
    buffer has to go to disk meanwhile, the batch that came from it goes there before the rest.
    """

    def __init__(self, spool: Spool, shed: ShedAccount) -> None:
        self._spool = spool
        self._shed = shed
        self._chunks: deque[_Chunk] = deque()
        self._rows_bytes = 0
        self._flight: list[Row] = []
        self._flight_events = 0
        self._is_flight_on_disk = False
        self._is_disk_refusing = False

    @property
    def events(self) -> int:
        """Events in memory, those in flight included unless they are on disk."""
        waiting = sum(chunk.events for chunk in tuple(self._chunks))
        return waiting + (0 if self._is_flight_on_disk else self._flight_events)

    @property
    def rows(self) -> Iterator[Row]:
        """Rows in memory behind those in flight, oldest first."""
        return (row for chunk in self._chunks for row in chunk.rows)

    @property
    def rows_bytes(self) -> int:
        """Weight of these rows."""
        return self._rows_bytes

    @property
    def spooled_bytes(self) -> int:
        """Bytes on disk."""
        return self._spool.size_bytes

    def add(self, rows: list[Row]) -> None:
        """Newer rows, in the order of their ``seq``."""
        self._rows_bytes += _pack(rows, self._chunks)

    def next_batch(self) -> list[Row]:
        """Lend the oldest rows out; the same ones again until ``stored``. Empty: nothing waits."""
        if not self._flight:
            spooled = self._spool.peek()
            self._is_flight_on_disk = spooled is not None
            self._flight = self._take_chunk() if spooled is None else spooled
            self._flight_events = sum(map(count_of, self._flight))
        return self._flight

    def stored(self) -> None:
        """Drop the batch lent out: it is in Postgres, or was refused row by row."""
        if self._is_flight_on_disk:
            self._spool.pop()
        self._flight, self._flight_events, self._is_flight_on_disk = [], 0, False

    def spill(self, keep_bytes: int) -> None:
        """Move the oldest rows to disk until the rest fits. Where the disk is full, successes go,
        oldest first, then failures; what is never shed waits in memory then."""
        while self._chunks and self._rows_bytes > keep_bytes:
            if self._flight and not self._is_flight_on_disk:
                if not self._put(self._flight):
                    self._shed_in_memory(keep_bytes, SHED_IN_TURN)
                    return
                self._is_flight_on_disk = True
            batch = self._chunks[0].rows
            if self._put(batch) or self._put_with_room_made(batch):
                self._take_chunk()
            elif not self._shed_in_memory(keep_bytes, SHED_IN_TURN[:1]):
                self._make_room_of_failures(keep_bytes)
                return

    def leave(self) -> None:
        """Leave everything on disk: there is no Postgres any more."""
        if self._flight and not self._is_flight_on_disk:
            first: deque[_Chunk] = deque()
            self._rows_bytes += _pack(self._flight, first)
            self._chunks.extendleft(reversed(first))
            self._flight, self._flight_events = [], 0
        self.spill(0)

    def close(self) -> None:
        """Close the spool; what it holds is for an heir."""
        if self._spool.is_deleted():
            lost_bytes = self._spool.size_bytes
            logger.error("recorder: somebody deleted the spool: %d bytes are lost", lost_bytes)
        self._spool.close()

    # -- memory

    def _take_chunk(self) -> list[Row]:
        if not self._chunks:
            return []
        chunk = self._chunks.popleft()
        self._rows_bytes -= chunk.size_bytes
        return chunk.rows

    def _shed_in_memory(self, keep_bytes: int, in_turn: tuple[Callable[[Row], bool], ...]) -> bool:
        """Shed the oldest rows in memory, kind after kind, until the rest fits: True."""
        for is_kept in in_turn:
            for chunk in self._chunks:
                if self._rows_bytes <= keep_bytes:
                    break
                self._thin_chunk(chunk, is_kept, self._rows_bytes - keep_bytes)
        self._chunks = deque(chunk for chunk in self._chunks if chunk.rows)
        return self._rows_bytes <= keep_bytes

    def _thin_chunk(self, chunk: _Chunk, is_kept: Callable[[Row], bool], excess_bytes: int) -> None:
        kept: list[Row] = []
        freed = 0
        for row in chunk.rows:
            if freed >= excess_bytes or is_kept(row):
                kept.append(row)
            else:
                freed += size_bytes(row)
                self._shed.add((row,))
        chunk.rows, chunk.size_bytes = kept, chunk.size_bytes - freed
        chunk.events = sum(map(count_of, kept))
        self._rows_bytes -= freed

    def _make_room_of_failures(self, keep_bytes: int) -> None:
        """No success is left in memory or on disk: the oldest failures go, those on disk first."""
        while self._chunks and self._rows_bytes > keep_bytes:
            if not self._put_with_room_made(self._chunks[0].rows, level=1):
                self._shed_in_memory(keep_bytes, SHED_IN_TURN)
                return
            self._take_chunk()

    # -- disk

    def _put_with_room_made(self, batch: list[Row], level: int = 0) -> bool:
        """Shed on disk, oldest first, until the batch fits; False when nothing more can go."""
        try:
            while (gone := self._thin(level)) is not None:
                self._shed.add(gone)
                if self._is_disk_refusing:
                    self._spool.compact()
                if gone and self._put(batch):
                    return True
        except OSError as exc:
            self._say_refused(exc)
        return False

    def _say_refused(self, error: OSError) -> None:
        """Say the first of a row of errors of the disk."""
        if not self._is_disk_refusing:
            logger.error("recorder: cannot write the spool: %s", error)
        self._is_disk_refusing = True

    def _thin(self, level: int) -> list[Row] | None:
        is_kept = SHED_IN_TURN[level]
        return self._spool.thin(is_kept, level=level, is_head_kept=self._is_flight_on_disk)

    def _put(self, batch: list[Row]) -> bool:
        """Append to the spool; False when it is full or the disk refuses."""
        try:
            is_kept = self._spool.append(batch)
        except OSError as exc:
            self._say_refused(exc)
            return False
        except UNWRITABLE as exc:
            return self._put_writable(batch, exc)
        self._is_disk_refusing = False
        return is_kept

    def _put_writable(self, batch: list[Row], error: Exception) -> bool:
        """Append what can be written down, shed the rest. Raises ``error`` when it is no row's."""
        bad = [row for row in batch if not _is_writable(row)]
        if not bad:
            raise error
        good = [row for row in batch if row not in bad]
        if good and not self._put(good):
            return False
        logger.error("recorder: %d events cannot be spooled: %s", len(bad), error)
        self._shed.add(bad)
        return True


def _pack(rows: list[Row], chunks: deque[_Chunk]) -> int:
    """Add rows to the last chunk and to new ones, of at most 1,000 rows and 4 MiB but for a single
    row; returns what they weigh."""
    total = 0
    last = chunks[-1] if chunks else _Chunk([], 0)
    for row in rows:
        size = size_bytes(row)
        total += size
        if not last.rows or len(last.rows) >= BATCH_ROWS or last.size_bytes + size > BATCH_BYTES:
            last = _Chunk([], 0)
            chunks.append(last)
        last.rows.append(row)
        last.size_bytes += size
        last.events += count_of(row)
    return total


def _is_writable(row: Row) -> bool:
    try:
        record_of([row])
    except UNWRITABLE:
        return False
    return True
