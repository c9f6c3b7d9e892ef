"""Sums of figures of which some may be unknown: unknown is not zero."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def total(values: Iterable[Any]) -> int | None:
    """Return the sum; None when there is nothing to add or a part is unknown."""
    parts = list(values)
    return None if not parts or any(part is None for part in parts) else sum(parts)


def known_total(values: Iterable[Any]) -> int | None:
    """Return the sum of what is known; None when nothing is."""
    return total(value for value in values if value is not None)
