"""Causes for which a partition is parked, and what is done about each."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True, slots=True, kw_only=True)
class Handling:
    """Meaning of a parking cause, and what ends it; docs/operations.md has both texts.

    ``is_retried``: the worker tries again by itself; else an operator unparks the partition.
    ``is_halting``: nothing further is arranged meanwhile. ``choice`` is the argument that
    ``unpark_partition`` must have for it, ``warning`` what is said before one chooses;
    ``title`` is for pages, where the cause's own text would not do.
    """

    meaning: str
    goes_on: str
    is_retried: bool = False
    is_halting: bool = False
    choice: str = ""
    warning: str = ""
    title: str = ""


class ParkingCause(StrEnum):
    """Why a partition is parked, as told by events, the heartbeat and pages."""

    handling: Handling

    def __new__(cls, cause: str, handling: Handling) -> ParkingCause:
        """Make a member that is its text."""
        member = str.__new__(cls, cause)
        member._value_ = cause
        member.handling = handling
        return member

    PROGRAM = (
        "program",
        Handling(
            meaning="the program is missing or not executable, or the machine has no process, "
            "memory or descriptor left for it",
            goes_on="tried every 10 s",
            is_retried=True,
        ),
    )
    DEAD_LETTERS = (
        "dead_letters",
        Handling(
            meaning="the dead-letter topic does not take letters",
            goes_on="when a letter can be written",
            is_retried=True,
        ),
    )
    DEAD_LETTER_TOO_LARGE = (
        "dead_letter_too_large",
        Handling(
            meaning="a letter is too large for the topic even without payload and traceback",
            goes_on="tried every 10 s: raise `max.message.bytes`",
            is_retried=True,
        ),
    )
    OFFSET_OUT_OF_RANGE = (
        "offset_out_of_range",
        Handling(
            meaning="the committed offset is no longer in the topic",
            goes_on="on `unpark_partition` with `start` `earliest` or `latest`",
            choice="start",
            warning="Its offset is gone: the earliest start leaves out what was deleted, the "
            "latest also passes over all that waits.",
        ),
    )
    PARSE_ERROR = (
        "parse_error",
        Handling(
            meaning="a message did not parse and `kafka.on_parse_error` is `park`",
            goes_on="on `unpark_partition`: it is parsed again",
            is_halting=True,
        ),
    )
    DEAD_LETTER_FLOOD = (
        "dead_letter_flood",
        Handling(
            meaning="50 messages in a row, or more than half of the last 200, were dead-lettered; "
            "no letter more is written (messages that end together, by one task or one "
            "`on_batch_complete`, get theirs together)",
            goes_on="on `unpark_partition`: it counts anew",
            is_halting=True,
            title="dead-letter flood",
        ),
    )
    SUSPECT = (
        "suspect",
        Handling(
            meaning="five workers in a row died while nothing of the partition but the program or "
            "delivery of one message ran; the detail names the message and its task",
            goes_on="on `unpark_partition` with `suspect` `run`, `skip` or `dead_letter`",
            is_halting=True,
            choice="suspect",
            warning="Workers died in a row while the program of its next message ran alone. Run: "
            "it runs once more and may take this worker with it; then the partition parks again. "
            "Skip: nothing of the message is stored. Dead-letter: it can be replayed later.",
        ),
    )


class SuspectDecision(StrEnum):
    """Order of an operator for the message of a partition parked as suspect."""

    RUN = "run"
    SKIP = "skip"
    DEAD_LETTER = "dead_letter"


def title_of(cause: str) -> str:
    """Return what pages call a cause; one that only another release knows is its text."""
    return next((each.handling.title for each in ParkingCause if each == cause), "") or cause
