"""What is wrong with a configuration, as a value: said the same way on every screen."""

from __future__ import annotations

from dataclasses import dataclass


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
