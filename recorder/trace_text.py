"""A trace as lines of text: each stay in a run, and below it what was done, indented."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from domain.printable import printable
from domain.text_bounds import shortened
from recorder.spans import Span
from recorder.trace import Trace

MOST_NOTE = 200
MOST_LINES = 1000


def lines_of(found: Trace) -> Iterator[str]:
    """Yield the lines of a trace that has events, at most ``MOST_LINES`` and one that says so.

    A line: milliseconds since the trace began, how long it took ('' of a moment, ``...`` while it
    runs), state, what it was, and a note.
    """
    for number, line in enumerate(_every_line(found)):
        if number == MOST_LINES:
            yield f"... only the first {MOST_LINES:,} lines are shown"
            return
        yield line
    if found.is_cut:
        yield "... the trace is cut: not all events of this message were read"


def _every_line(found: Trace) -> Iterator[str]:
    for life in found.lives:
        name = found.name_of(life.run)
        yield printable(f"{name.worker} ({name.cluster})" if name.cluster else name.worker)
        children: dict[str | None, list[Span]] = {}
        for span in life.spans[1:]:
            children.setdefault(span.parent, []).append(span)
        yield _line(found, life.whole, 0)
        yield from _below(found, children, life.whole.id, 1)
    if found.marks:
        yield "partition and run"
    for mark in sorted(found.marks, key=lambda mark: mark.start):
        yield _line(found, mark, 0)


def _below(
    found: Trace, children: dict[str | None, list[Span]], parent: str, depth: int
) -> Iterator[str]:
    for span in sorted(children.get(parent, ()), key=lambda span: span.start):
        yield _line(found, span, depth)
        yield from _below(found, children, span.id, depth + 1)


def _line(found: Trace, span: Span, depth: int) -> str:
    after = f"{_ms(span.start - found.start):12,.1f} ms"
    if span.end is None:
        took = "..."
    else:
        took = f"{_ms(span.end - span.start):,.1f} ms" if span.end > span.start else ""
    note = shortened(span.note, MOST_NOTE)
    text = f"{'  ' * depth}{span.name}{f': {note}' if note else ''}"
    return f"{after}  {took:>12}  {span.state:<13}  {printable(text)}"


def _ms(delta: timedelta) -> float:
    return delta.total_seconds() * 1000.0
