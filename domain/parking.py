"""Causes for which a partition is parked, and what is done about each."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True, slots=True, kw_only=True)
class Handling:
    """End of a parking, as docs/operations.md and the page of the partition tell it (``goes_on``).

    ``is_retried``: the worker tries again by itself; else an operator unparks the partition.
    ``is_halting``: nothing further is arranged meanwhile. ``choice`` is the argument that
    ``unpark_partition`` must have for it, ``warning`` what is said before one chooses.
    """

    goes_on: str
    is_retried: bool = False
    is_halting: bool = False
    choice: str = ""
    warning: str = ""


class ParkingCause(StrEnum):
    """Why a partition is parked, as told by events, the heartbeat and pages."""

    PROGRAM = "program"
    DEAD_LETTERS = "dead_letters"
    DEAD_LETTER_TOO_LARGE = "dead_letter_too_large"
    RETRY_TOPIC = "retry_topic"
    OFFSET_OUT_OF_RANGE = "offset_out_of_range"
    PARSE_ERROR = "parse_error"
    DEAD_LETTER_FLOOD = "dead_letter_flood"
    SUSPECT = "suspect"

    @property
    def handling(self) -> Handling:
        """Handling of the cause."""
        return _HANDLING[self]


_HANDLING = {
    ParkingCause.PROGRAM: Handling(goes_on="tried every 10 s", is_retried=True),
    ParkingCause.DEAD_LETTERS: Handling(goes_on="when a letter can be written", is_retried=True),
    ParkingCause.DEAD_LETTER_TOO_LARGE: Handling(
        goes_on="tried every 10 s: raise `max.message.bytes`", is_retried=True
    ),
    ParkingCause.RETRY_TOPIC: Handling(
        goes_on="when a message can be written to `retry.topic`", is_retried=True
    ),
    ParkingCause.OFFSET_OUT_OF_RANGE: Handling(
        goes_on="on `unpark_partition` with `start` `earliest` or `latest`",
        choice="start",
        warning="Its offset is gone: the earliest start leaves out what was deleted, the latest "
        "also passes over all that waits.",
    ),
    ParkingCause.PARSE_ERROR: Handling(
        goes_on="on `unpark_partition`: it is parsed again", is_halting=True
    ),
    ParkingCause.DEAD_LETTER_FLOOD: Handling(
        goes_on="on `unpark_partition`: it counts anew", is_halting=True
    ),
    ParkingCause.SUSPECT: Handling(
        goes_on="on `unpark_partition` with `suspect` `run`, `skip` or `dead_letter`",
        is_halting=True,
        choice="suspect",
        warning="Workers died in a row while the program of its next message ran alone. Run: it "
        "runs once more and may take this worker with it; then the partition parks again. Skip: "
        "nothing of the message is stored. Dead-letter: it can be replayed later.",
    ),
}


class SuspectDecision(StrEnum):
    """Order of an operator for the message of a partition parked as suspect."""

    RUN = "run"
    SKIP = "skip"
    DEAD_LETTER = "dead_letter"


def remedy_of(cause: str) -> str:
    """Return what ends a parking, in words; empty for a cause that only another release knows."""
    known = cause in ParkingCause.__members__.values()
    return ParkingCause(cause).handling.goes_on.replace("`", "") if known else ""
