"""Texts and numbers from outside, made plain and kept within bounds.

A handler or a topic may make a label, a reason or an error as long as it likes, and each goes into
every event, beat and socket frame of its message.
"""

from __future__ import annotations

import reprlib
from collections import Counter
from collections.abc import Mapping
from math import isfinite, isnan
from typing import Any

MAX_LABELS = 32
MAX_NAME = 64
MAX_VALUE = 256
MAX_REASON = 2000
"""Characters of a reason, or of an error in words, that are kept."""
CUT = "..."


class TextBounds:
    """Cuts what is too long, and counts what it cut; one for all of a worker.

    ``cuts`` counts by what was cut: ``label`` (a name or a value), ``labels`` (those past the 32nd
    of one task), ``reason``.
    """

    __slots__ = ("cuts",)

    def __init__(self) -> None:
        self.cuts: Counter[str] = Counter(label=0, labels=0, reason=0)

    def labels(self, given: Any) -> dict[str, str]:
        """Return a copy within the bounds, the first 32 kept. Raises TypeError naming the label.

        Numbers and None become text, as they would be written; anything else is refused.
        """
        if not isinstance(given, Mapping):
            raise TypeError(f"labels: expected a mapping, got {type(given).__name__}")
        kept: dict[str, str] = {}
        for name, value in given.items():
            if len(kept) == MAX_LABELS:
                self.cuts["labels"] += len(given) - MAX_LABELS
                break
            kept[self.label(_label_text(name), MAX_NAME)] = self.label(_label_text(value))
        return kept

    def label(self, text: str, most: int = MAX_VALUE) -> str:
        """Return the text, cut to ``most`` characters where it is longer."""
        if len(text) <= most:
            return text
        self.cuts["label"] += 1
        return text[: most - len(CUT)] + CUT

    def reason(self, text: str) -> str:
        """Return a reason, its middle cut out where it is longer than 2,000 characters."""
        if len(text) <= MAX_REASON:
            return text
        self.cuts["reason"] += 1
        return shortened(text)


def shortened(text: str, most: int = MAX_REASON) -> str:
    """Return the text, or its two ends and the number of characters between them."""
    if len(text) <= most:
        return text
    half = most // 2
    return f"{text[:half]} ... ({len(text) - 2 * half:,} more characters) ... {text[-half:]}"


def shown(value: Any) -> str:
    """Return a value for an error text: its type and the start of its words, if it has any."""
    try:
        return f"{type(value).__name__} {reprlib.repr(value)}"
    except Exception:  # noqa: BLE001 - a number without end, or an object of a handler's own
        return type(value).__name__


def plain_text(given: Any) -> str | None:
    """Return exact ``str``: the content of a text or the path of a PathLike; None for others.

    What a subclass makes of ``__str__`` does not count: the content does.
    """
    if type(given) is str:
        return given
    if isinstance(given, str):
        return str.__str__(given)
    read_path = getattr(type(given), "__fspath__", None)
    path = None if read_path is None else read_path(given)
    return str.__str__(path) if isinstance(path, str) else None


def number(given: Any) -> float | None:
    """Return a number as a float; None for what is none, is NaN, or is beyond floats."""
    if not isinstance(given, int | float):
        return None
    try:
        found = float(given)
    except OverflowError:
        return None
    return None if isnan(found) else found


def finite(given: Any) -> float | None:
    """Return a finite number as a float; None as ``number`` does, and for Infinity."""
    found = number(given)
    return found if found is not None and isfinite(found) else None


def described(error: BaseException) -> str:
    """Return an error as ``Type: text`` within bounds, also where its text cannot be had."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - an error of a handler's own may fail at this too
        text = "(its text cannot be had)"
    return f"{type(error).__name__}: {shortened(text)}"


def _label_text(given: Any) -> str:
    text = plain_text(given)
    if text is not None:
        return text
    if given is None or isinstance(given, bool):
        return str(given)
    if isinstance(given, int):
        # Python writes no number of more than 4,300 digits.
        return int.__repr__(given) if given.bit_length() <= 1024 else "(a number beyond 2**1024)"
    if isinstance(given, float):
        return float.__repr__(given)
    raise TypeError(f"labels: expected texts or numbers, got {type(given).__name__}")


def text_in(query: Mapping[str, str], name: str) -> str:
    """Return a value of a query or form, as Postgres takes it: trimmed, without NUL."""
    return query.get(name, "").replace("\0", "").strip()
