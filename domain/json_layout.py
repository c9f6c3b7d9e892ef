"""JSON laid out for people, without changing what it says."""

from __future__ import annotations

import json
import re

MOST_GROWTH = 8
"""Longest layout, as a multiple of its text; a longer one is not made, the text stays as it came.
Texts that people write grow two or three times."""
MOST_LEVELS = 20
"""Deeper ones are indented no further: a page would consist of spaces."""
_INDENT = "  "
_TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{},:]|[^\s"\[\]{},:]+', re.DOTALL)


def laid_out(text: str) -> str:
    """Return JSON with a line for each item; anything else, and what grows too long, as it came.

    Its tokens stay as they are written: numbers of any size, escapes, repeated names.
    """
    if text.lstrip()[:1] not in ("{", "["):
        return text
    try:
        json.loads(text, parse_int=str, parse_float=str)
    except (ValueError, RecursionError):
        return text
    parts: list[str] = []
    size, most, depth = 0, MOST_GROWTH * len(text) + 1024, 0
    is_fresh = False  # A bracket was opened just now: an empty pair stays on its line.
    for token in _TOKEN.findall(text):
        if token in ("]", "}"):
            depth -= 1
            part = token if is_fresh else _line(depth) + token
        elif is_fresh:
            part = _line(depth) + token
        else:
            part = token
        is_fresh = token in ("[", "{")
        if is_fresh:
            depth += 1
        elif token == ",":
            part += _line(depth)
        elif token == ":":
            part += " "
        size += len(part)
        if size > most:
            return text
        parts.append(part)
    return "".join(parts)


def _line(depth: int) -> str:
    return "\n" + _INDENT * min(depth, MOST_LEVELS)
