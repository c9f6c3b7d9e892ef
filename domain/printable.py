"""Text from outside made safe to print: a terminal obeys what stands in it."""

from __future__ import annotations

import re

_CONTROLS = (
    "\x00-\x1f\x7f-\x9f"  # C0, DEL, C1: colours, cursor, title, clipboard
    "\u2028\u2029\u202a-\u202e\u2066-\u2069\u200e\u200f\u061c"  # line ends, text directions
    "\ud800-\udfff"  # lone surrogates, which no stream can encode
)
_LINE = re.compile(f"[{_CONTROLS}]")
_BLOCK = re.compile(f"(?![\n\t])[{_CONTROLS}]")


def printable(text: str) -> str:
    """Return the text as one line without control characters: each is written as its escape."""
    return _LINE.sub(_escaped, text)


def printable_block(text: str) -> str:
    """As ``printable``, but line ends and tabs stay."""
    return _BLOCK.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    number = ord(found[0])
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"
