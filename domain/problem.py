"""Fault of a configuration, as a value: said the same way on every screen."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from domain.masking import MASK


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One error. ``id`` is ``drakkar.E0xx``; ``got`` never holds a secret."""

    id: str
    key: str
    expected: str
    got: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.key}: expected {self.expected}, got {self.got}"

    def without(self, secrets: Iterable[str]) -> Problem:
        """Return it without these texts, which an exception that ``got`` quotes may hold."""
        got = self.got
        for secret in sorted({each for each in secrets if len(each) >= 4}, key=len, reverse=True):
            got = got.replace(secret, MASK)
        return replace(self, got=got)

    @property
    def report(self) -> str:
        """Lines a person reads: the error, its id, and what to do."""
        hint = f"\n    hint: {self.hint}" if self.hint else ""
        return f"{self}  [{self.id}]{hint}"
