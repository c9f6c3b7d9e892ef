"""One fate of each message."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum


class Fate(StrEnum):
    """End of a message; each has exactly one."""

    DELIVERED = "delivered"
    FILTERED = "filtered"
    SKIPPED = "skipped"
    DEAD_LETTERED = "dead_lettered"


_RANK = {Fate.FILTERED: 0, Fate.SKIPPED: 1, Fate.DELIVERED: 2, Fate.DEAD_LETTERED: 3}


def worst(fates: Iterable[Fate]) -> Fate:
    """Return the fate of a message whose parts ended so; of no parts: ``FILTERED``.

    Dead-lettered outranks delivered, which outranks skipped, which outranks filtered.
    """
    return max(fates, key=_RANK.__getitem__, default=Fate.FILTERED)
