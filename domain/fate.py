"""One fate of each message."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum


class Fate(StrEnum):
    """End of a message; each has exactly one.

    ``DEFERRED`` passes it on: it stands in the retry topic, and has its last fate there.
    """

    DELIVERED = "delivered"
    FILTERED = "filtered"
    SKIPPED = "skipped"
    DEAD_LETTERED = "dead_lettered"
    DEFERRED = "deferred"


_RANK = {
    Fate.FILTERED: 0,
    Fate.SKIPPED: 1,
    Fate.DELIVERED: 2,
    Fate.DEAD_LETTERED: 3,
    Fate.DEFERRED: 4,
}


def worst(fates: Iterable[Fate]) -> Fate:
    """Return the fate of a message whose parts ended so; of no parts: ``FILTERED``.

    Deferred outranks dead-lettered, which outranks delivered, which outranks skipped, which
    outranks filtered.
    """
    return max(fates, key=_RANK.__getitem__, default=Fate.FILTERED)
