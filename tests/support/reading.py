"""Read a page as a browser does: the whitespace that no reader sees is left out."""

from __future__ import annotations

import re
from typing import Protocol

KEPT = re.compile(r"(<(pre|textarea|script|style)\b.*?</\2\s*>)", re.DOTALL)
PIECES = re.compile(r"""<[a-zA-Z/!](?:[^>"']|"[^"]*"|'[^']*')*>|[^<]+|<""")
QUOTED = re.compile(r"""("[^"]*"|'[^']*')""")
ATTRIBUTES = r"""(?=[\s>])(?:[^>"']|"[^"]*"|'[^']*')*"""
BLOCK_NAMES = (
    "html head body title meta link script noscript h1 h2 h3 p div section header footer main nav "
    "form fieldset legend figure figcaption details summary dialog ul ol li dl dt dd pre table "
    "caption thead tbody tfoot tr th td option select"
)
BLOCKS = re.compile(f" ?(</?(?:{'|'.join(BLOCK_NAMES.split())}){ATTRIBUTES}>) ?")


class Answer(Protocol):
    """What a test client answers with."""

    @property
    def content(self) -> bytes: ...


def read_page(answer: Answer) -> str:
    """Return the answer's page as `read` reads it."""
    return read(answer.content.decode())


def read(markup: str) -> str:
    """Return the page with each run of whitespace as one space, and none beside a block's tag.

    Texts of <pre> and <textarea> and values of attributes stay, but for the names in `class`."""
    pieces = KEPT.split(markup)
    # Three each: what is between, what is kept, its tag's name.
    between, kept = pieces[::3], [*pieces[1::3], ""]
    return "".join(_one_line(one) + other for one, other in zip(between, kept, strict=True))


def _one_line(markup: str) -> str:
    found = PIECES.findall(markup)
    lines = (_tag(one) if one.startswith("<") else re.sub(r"\s+", " ", one) for one in found)
    return BLOCKS.sub(r"\1", "".join(lines))


def _tag(tag: str) -> str:
    parts = QUOTED.split(tag)
    for number, part in enumerate(parts):
        if number % 2 == 0 or parts[number - 1].endswith("class="):
            parts[number] = re.sub(r"\s+", " ", part)
    return re.sub(r" (/?>)$", r"\1", "".join(parts))
