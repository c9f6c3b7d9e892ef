"""Count of the parts of a message (or batch) that are open, and of the ends of the others."""

from __future__ import annotations

from domain.fate import Fate, worst


class FanOut:
    """Counts open parts; parts may be added while others are open (``Replace``)."""

    __slots__ = ("_fates", "_open")

    def __init__(self, parts: int) -> None:
        if parts < 0:
            raise ValueError(f"parts: expected 0 or more, got {parts}")
        self._open = parts
        self._fates: set[Fate] = set()

    def replace(self, parts: int) -> None:
        """One open part becomes ``parts`` new ones; 0 ends it."""
        self._require_open()
        self._open += parts - 1

    def end(self, fate: Fate | None) -> bool:
        """One part ended so; True when it was the last. None: it has no fate yet, and runs again
        in another life of the message. Raises ValueError when none is open."""
        self._require_open()
        self._open -= 1
        if fate is not None:
            self._fates.add(fate)
        return self._open == 0

    def reopen(self, parts: int) -> None:
        """Parts that ended without a fate are open again."""
        self._open += parts

    def add_fate(self, fate: Fate) -> None:
        """Let something that is not a part weigh on the fate (a payload of a message
        hook, what ended in a former life)."""
        self._fates.add(fate)

    def _require_open(self) -> None:
        if self._open <= 0:
            raise ValueError("no part is open")

    @property
    def fate(self) -> Fate:
        """Fate of the whole so far."""
        return worst(self._fates)
