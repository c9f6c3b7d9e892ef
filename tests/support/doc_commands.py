"""What README and docs/ tell people to type: blocks of code, and commands with their place."""

from __future__ import annotations

import re
import shlex
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
PAGES = ("README.md", *(f"docs/{path.name}" for path in sorted((CHECKOUT / "docs").glob("*.md"))))
SHELL = ("", "sh", "bash", "console")
"""Fences whose lines are typed; a drawing is ``text``."""

TWO_WORDS = (["manage.py"], ["make"], ["drakkar"])
"""Programs whose first argument is a command of its own."""

_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.DOTALL | re.MULTILINE)
_INLINE = re.compile(r"`([^`\n]+)`")
_ASSIGNMENT = re.compile(r"[A-Z_][A-Z0-9_]*=")
_PROGRAMS = frozenset(
    "manage.py drakkar make python docker curl supervisorctl promtool cp pip kubectl daphne".split()
)
"""What begins a command inside a sentence; in a fence everything does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A fenced block; ``line`` is where its content begins."""

    page: str
    line: int
    language: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One command line, its variables apart.

    ``program`` is ``manage.py migrate``, ``drakkar send``, ``make demo``, ``python -m x``, or the
    first word.
    ``is_mention`` says that a sentence names it without any argument.
    """

    place: str
    program: str
    arguments: tuple[str, ...]
    variables: tuple[tuple[str, str], ...]
    is_mention: bool

    def __str__(self) -> str:
        return f"{self.place}: {self.program} {shlex.join(self.arguments)}".rstrip()


def blocks() -> Iterator[Block]:
    """Every fenced block of every page."""
    for page in PAGES:
        text = (CHECKOUT / page).read_text()
        for found in _FENCE.finditer(text):
            line = text.count("\n", 0, found.start(3)) + 1
            content = textwrap.dedent(found[3])
            yield Block(page=page, line=line, language=found[2], text=content)


def commands() -> Iterator[Command]:
    """Every command of the pages, each variant of a usage line by itself."""
    for block in blocks():
        if block.language in SHELL:
            for line in block.text.replace("\\\n", " ").splitlines():
                yield from _read(f"{block.page}:{block.line}", line, is_inline=False)
    for page in PAGES:
        text = _FENCE.sub(lambda found: "\n" * found[0].count("\n"), (CHECKOUT / page).read_text())
        for found in _INLINE.finditer(text):
            place = f"{page}:{text.count(chr(10), 0, found.start()) + 1}"
            if _begins_with_a_program(found[1]):
                yield from _read(place, found[1], is_inline=True)


def _begins_with_a_program(text: str) -> bool:
    words = [word for word in text.split() if not _ASSIGNMENT.match(word)]
    return len(words) > 1 and Path(words[0]).name in _PROGRAMS


def _read(place: str, text: str, *, is_inline: bool) -> Iterator[Command]:
    for variant in variants(text) if is_inline else [text]:
        words = shlex.split(variant, comments=True)
        if words:
            yield _command(place, words, is_inline)


def _command(place: str, words: list[str], is_inline: bool) -> Command:
    count = next((n for n, word in enumerate(words) if not _ASSIGNMENT.match(word)), len(words))
    variables = [
        (name, value) for name, _, value in (word.partition("=") for word in words[:count])
    ]
    rest = words[count:]
    if rest:
        rest[0] = Path(rest[0]).name
    if rest[:2] == ["python", "manage.py"]:
        rest = rest[1:]
    size = 3 if rest[:2] == ["python", "-m"] else 2 if rest[:1] in TWO_WORDS else 1
    return Command(
        place=place,
        program=" ".join(rest[:size]),
        arguments=tuple(rest[size:]),
        variables=tuple(variables),
        is_mention=is_inline and not rest[size:],
    )


def variants(usage: str) -> list[str]:
    """The command lines that a usage stands for.

    ``[--a]`` is written out, ``(--a or --b)`` and ``[--c x or y]`` are one line each, as is each
    word of ``x|y``.
    """
    parts = re.split(r"(\([^)]*\)|\[[^\]]*\]|\S*\|\S*)", usage)
    return ["".join(chosen).strip() for chosen in product(*map(_choices, parts))]


def _choices(part: str) -> list[str]:
    if part[:1] == "[" and part[1:2] == "-":
        first, *others = part[1:-1].split(" or ")
        return [first, *(f"{first.rpartition(' ')[0]} {other}" for other in others)]
    if part[:1] == "(" and part[1:2] == "-":
        return part[1:-1].split(" or ")
    return part.split("|") if "|" in part and part[0] not in "'\"" else [part]
