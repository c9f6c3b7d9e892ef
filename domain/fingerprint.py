"""Fingerprint of a failure: what failures of one cause have in common, as a title and an id.

Numbers, ids, times, paths, addresses and quoted values are taken out of what a program or a handler
said last; the words stay. So one cause is one group, however many messages it befalls.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import blake2b

from domain.failure import FailureKind, Stage
from domain.masking import mask_text
from domain.printable import printable

FINGERPRINT = re.compile(r"[0-9a-f]{20}", re.ASCII)
MAX_TITLE = 200
MOST_READ_BYTES = 16 * 1024
"""End of a program's stderr in which its last words are looked for."""
MOST_LINE = 1000
MOST_LINES = 400
MOST_PASSES = 8
_FRAME = re.compile(r'\s*File "([^"]{1,300})", line \d+, in (\S{1,100})')
_RAISED = re.compile(r"([A-Za-z_][\w.]{0,120}(?:Error|Exception|Exit|Interrupt|Warning))\b:?")
_LIBRARY = re.compile(r"site-packages|dist-packages|/lib/python|^<frozen")
_NOISE = re.compile(r"\s*(?:note|hint|warning|info|debug)\b", re.IGNORECASE)
_PREFIX = re.compile(
    r"[\[(]?(?:<time>[\])]?[:,-]?|(?:<n>|<id>)[\])][:,-]?|(?i:error|fatal|critical|panic)[\]):]+"
    r"|ERROR|FATAL|CRITICAL) (?=\S)"
)
"""What a log line begins with, and what tells nothing of the cause."""
_LETTERS = re.compile(r"[^\W\d_]{2}")
_VALUE = re.compile(
    r"(?P<url>(?<![\w])[A-Za-z][A-Za-z0-9+.-]{1,15}://\S+)"
    r"|(?P<text>(?<![\w>])(?:'[^'\n]{0,200}'|\"[^\"\n]{0,200}\"|`[^`\n]{0,200}`)(?![\w<]))"
    r"|(?P<id>\b[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}\b|\b0x[0-9a-fA-F]+"
    r"|\b(?=[0-9a-fA-F]{0,200}\d)(?=\d{0,200}[a-fA-F])[0-9a-fA-F]{6,200}\b)"
    r"|(?P<time>\b\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d)?(?:[.,]\d{1,9})?(?:Z|[+-]\d\d:?\d\d)?)?"
    r"|\b\d\d:\d\d:\d\d(?:[.,]\d{1,9})?)"
    r"|(?P<path>(?<![\w<>/\\])(?:~|\.{1,2})?/[^\s:'\",;()<>\[\]]+|\b[A-Za-z]:\\[^\s:'\",;()<>]+)"
    r"|(?P<tree>(?<![\w.@+~/>-])[\w.@+~-]{1,200}(?:/[\w.@+~-]{1,200})+)"
    r"|(?P<n>[-+]?\d+(?:[.,:]\d+)*)"
)
_REPEATED = re.compile(r"<(\w+)>(?:[\s,;:|/-]{1,4}<\1>)+")
OF_OUTPUT = frozenset({FailureKind.EXIT, FailureKind.SIGNAL})
"""Kinds of which the program's own last words tell most; of others the worker's do."""


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Group that a failure belongs to: ``id`` are 20 hexadecimal digits, ``title`` is for
    people."""

    id: str
    title: str


def of_task(
    cluster: str, kind: str, *, exit_code: int | None, detail: str, stderr: bytes | None
) -> Fingerprint:
    """Return the fingerprint of a failed attempt; its words are the last of ``stderr``, or
    ``detail``."""
    head = f"exit {exit_code}" if kind == FailureKind.EXIT and exit_code is not None else kind
    if kind == FailureKind.SIGNAL:
        head = plain(detail) or head
    words = last_words(stderr or b"") if kind in OF_OUTPUT else plain(detail)
    return _made(cluster, kind, head, words)


def of_letter(
    cluster: str, stage: str, kind: str, *, reason: str, traceback: str, sink: str
) -> Fingerprint:
    """Return the fingerprint of a dead letter that no failed attempt made; its words are those of
    the error raised, or ``reason``."""
    head = f"{stage} of {sink}" if stage == Stage.DELIVER and sink else str(stage)
    raised = last_words(traceback.encode("utf-8", "replace"))
    return _made(cluster, kind, head, raised or plain(reason))


def of_many(cluster: str, kind: str) -> Fingerprint:
    """Return the fingerprint of failures of a kind that say something else each time."""
    return _made(cluster, kind, str(kind), "all kinds of words")


def _made(cluster: str, kind: str, head: str, words: str) -> Fingerprint:
    title = f"{head}: {words}" if words and words != head else head
    digest = blake2b("\0".join((cluster, kind, title)).encode("utf-8", "replace"), digest_size=10)
    return Fingerprint(id=digest.hexdigest(), title=title)


def last_words(output: bytes) -> str:
    """Return the error that a program said last, without its values; empty where it said none.

    Of a Python traceback that is the exception with the innermost frame of its own code; of other
    output the last line with words in it.
    """
    text = output[-MOST_READ_BYTES:].decode("utf-8", "replace")
    lines = [line for line in text.splitlines()[-MOST_LINES:] if _LETTERS.search(line[:MOST_LINE])]
    telling = [line for line in lines if not _NOISE.match(line)] or lines
    if not telling:
        return ""
    words = plain(telling[-1])
    frame = _own_frame(lines) if _RAISED.match(telling[-1].strip()) else ""
    return f"{words} in {frame}"[:MAX_TITLE] if frame else words


def _own_frame(lines: list[str]) -> str:
    """Return the function that raised: the innermost that is of no library, if one is."""
    frames = [found.groups() for line in lines if (found := _FRAME.match(line[:MOST_LINE]))]
    own = [name for path, name in frames if not _LIBRARY.search(path)]
    chosen = own or [name for _, name in frames]
    return plain(chosen[-1]) if chosen else ""


def plain(line: str) -> str:
    """Return a line's words with a placeholder for each value, on one line of at most 200
    characters. ``plain(plain(x)) == plain(x)``."""
    text = printable(mask_text(" ".join(line[:MOST_LINE].split())))
    for _ in range(MOST_PASSES):
        before = text
        text = _VALUE.sub(_placeholder, text)
        text = _REPEATED.sub(r"<\1>", " ".join(text.split()))
        prefix = _PREFIX.match(text)
        text = text[prefix.end() if prefix else 0 :][:MAX_TITLE].strip()
        if text == before:
            break
    return text


def _placeholder(found: re.Match[str]) -> str:
    name = found.lastgroup
    if name != "tree":
        return f"<{name}>"
    text = found[0]
    is_path = text.count("/") > 1 or "." in text.rpartition("/")[2] or bool(re.search(r"\d", text))
    return "<path>" if is_path else text
