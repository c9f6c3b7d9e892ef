"""Live tail of a task: what its worker tells while it runs, and how it is kept in order."""

from __future__ import annotations

from codecs import IncrementalDecoder, getincrementaldecoder
from dataclasses import dataclass
from enum import StrEnum

from domain.beat import Record

LEASE_SECONDS = 30.0
"""A reader that does not renew its lease for so long is gone."""
KEPT_BYTES = 256 * 1024
"""Latest output of one tail that a reader who comes later still sees."""
_UTF8 = getincrementaldecoder("utf-8")


class TailState(StrEnum):
    """Where a task stands, for those who follow it."""

    RUNNING = "running"
    """Its program runs."""
    WAITING = "waiting"
    """It is at the worker and does not run: it waits for a slot, for a retry, for a decision."""
    DELIVERING = "delivering"
    """Its program ended; what came of it is on its way."""
    ABSENT = "absent"
    """The worker does not have it: it ended, or has not begun."""
    REFUSED = "refused"
    """The worker follows as many tasks as it may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TailFacts(Record):
    """A followed task as its worker knows it; None is unknown.

    ``stdout_bytes`` and ``stderr_bytes`` count all that the attempt wrote so far. CPU, memory and
    processes are of its process group. ``progress`` is 0 to 1, as the program last said it.
    ``detail`` is why it is refused, or the key or group that it waits for.
    """

    state: str
    attempt: int | None = None
    pid: int | None = None
    slot: int | None = None
    elapsed_seconds: float | None = None
    cpu_seconds: float | None = None
    rss_bytes: int | None = None
    processes: int | None = None
    stdout_bytes: int | None = None
    stderr_bytes: int | None = None
    progress: float | None = None
    note: str | None = None
    detail: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Bytes that an attempt wrote to ``stdout`` or ``stderr``, from that stream's ``offset`` on."""

    attempt: int
    stream: str
    offset: int
    data: bytes

    @property
    def end(self) -> int:
        """Offset behind its last byte."""
        return self.offset + len(self.data)


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """Text that follows what was shown of a stream, from its byte ``offset`` on.

    ``left_out`` counts bytes missing before it; ``is_anew``: it is of another attempt than what was
    shown.
    """

    stream: str
    offset: int
    left_out: int
    text: str
    is_anew: bool = False


class TailText:
    """Makes text of the pieces of one tail, whatever is missing, doubled or cut within a character.

    Undecodable bytes are replaced.
    """

    def __init__(self) -> None:
        self._attempt: int | None = None
        self._ends: dict[str, int] = {}
        self._decoders: dict[str, IncrementalDecoder] = {}

    def add(self, piece: Piece) -> Written | None:
        """Return what it adds; None: nothing that is not known."""
        is_anew = piece.attempt != self._attempt
        if is_anew:
            if self._attempt is not None and piece.attempt < self._attempt:
                return None
            self._attempt = piece.attempt
            self._ends, self._decoders = {}, {}
        known = self._ends.get(piece.stream, 0)
        if piece.end <= known:
            return None
        left_out = max(0, piece.offset - known)
        if left_out or piece.stream not in self._decoders:
            self._decoders[piece.stream] = _UTF8("replace")
        self._ends[piece.stream] = piece.end
        start = max(known, piece.offset)
        text = self._decoders[piece.stream].decode(piece.data[start - piece.offset :])
        return Written(
            stream=piece.stream, offset=start, left_out=left_out, text=text, is_anew=is_anew
        )
