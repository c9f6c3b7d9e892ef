"""JSON documents that programs send: read strictly, refused in words."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from math import isfinite
from typing import Any

MAX_LEVELS = 32
MAX_DIGITS = 400
"""Of a number: more than any that a database or a clock knows."""


class BadDocument(ValueError):
    """A document that is not taken; the text says what was expected and what came."""


def read_document(body: bytes) -> Any:
    """Return the document of a body. Raises BadDocument.

    Refused are text with NUL or half a surrogate pair, which Postgres cannot hold; NaN and
    Infinity; names that stand twice in an object; more than 32 levels.
    """
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise BadDocument(f"body: expected UTF-8, got a strange byte at {exc.start}") from exc
    try:
        document = json.loads(
            text, parse_constant=_constant, parse_int=_int, parse_float=_float,
            object_pairs_hook=_pairs,
        )  # fmt: skip
    except BadDocument:
        raise
    except RecursionError:
        raise BadDocument(f"body: expected at most {MAX_LEVELS} levels") from None
    except ValueError as exc:
        raise BadDocument(f"body: expected JSON: {exc}") from exc
    _check(document)
    return document


def without_nan(document: Any) -> Any:
    """A document of ours with null in place of NaN and Infinity, which JSON does not have."""
    if isinstance(document, float):
        return document if isfinite(document) else None
    if isinstance(document, Mapping):
        return {name: without_nan(value) for name, value in document.items()}
    if isinstance(document, list | tuple):
        return [without_nan(value) for value in document]
    return document


def _constant(name: str) -> Any:
    raise BadDocument(f"body: expected JSON, which has no {name}")


def _int(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise BadDocument(f"body: expected at most {MAX_DIGITS} digits, got {len(text)}")
    return int(text)


def _float(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise BadDocument(f"body: expected a finite number, got {text[:40]}")
    return number


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise BadDocument(f"body: expected each name once, got {twice[:80]!r} again")
    return found


def _check(document: Any) -> None:
    """Look at every text, level by level. Raises BadDocument."""
    level, depth = [document], 0
    while level:
        if depth > MAX_LEVELS:
            raise BadDocument(f"body: expected at most {MAX_LEVELS} levels")
        below: list[Any] = []
        for value in level:
            if isinstance(value, str):
                _check_text(value)
            elif isinstance(value, dict):
                below += [*value, *value.values()]
            elif isinstance(value, list):
                below += value
        level, depth = below, depth + 1


def _check_text(text: str) -> None:
    if "\0" in text:
        raise BadDocument("body: expected text without NUL")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise BadDocument(
                "body: expected whole characters, got half a surrogate pair"
            ) from None
