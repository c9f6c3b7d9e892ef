"""Why one partition is parked: causes in words, each until it is gone."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from domain.text_bounds import shortened

SUSPECT = "suspect"
"""Workers died in a row while the program of its next message ran alone."""
FLOOD = "dead_letter_flood"
"""So many messages in a row were dead-lettered that these are hardly at fault."""
HALTING = frozenset({"parse_error", FLOOD, SUSPECT})
"""Causes for which nothing further is arranged."""


class SuspectDecision(StrEnum):
    """What an operator may have done with the message of a partition parked as suspect."""

    RUN = "run"
    SKIP = "skip"
    DEAD_LETTER = "dead_letter"


class Parking:
    """The causes of the moment; empty: the partition is not parked."""

    __slots__ = ("_details",)

    def __init__(self) -> None:
        self._details: dict[str, str] = {}

    def add(self, cause: str, detail: str) -> bool:
        """False when it is parked for that cause already."""
        if cause in self._details:
            return False
        self._details[cause] = shortened(detail)
        return True

    def remove(self, cause: str) -> bool:
        """False when it was not parked for that cause."""
        return self._details.pop(cause, None) is not None

    @property
    def details(self) -> Mapping[str, str]:
        """What is told of each cause."""
        return self._details

    @property
    def is_halting(self) -> bool:
        """Whether nothing further may be arranged."""
        return bool(HALTING & self._details.keys())
