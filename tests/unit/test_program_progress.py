"""Lines of progress, whatever a program writes."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.executor.progress import MAX_LINE_BYTES, MAX_LINES, MAX_NOTE_CHARACTERS, Progress

LINES = st.lists(
    st.binary(max_size=30).map(lambda line: line.replace(b"\n", b" "))
    | st.builds(
        lambda share, note: json.dumps({"progress": share, "note": note}).encode(),
        st.none() | st.floats(0, 1) | st.floats(),
        st.none() | st.text(max_size=5),
    ),
    max_size=8,
)


def test_a_line_changes_what_it_names() -> None:
    told = Progress()
    assert told.feed(b'{"progress": 0.25, "note": "loading"}\n')
    assert told.feed(b'{"progress": 1}\n{"other": 3}\n\n')
    assert (told.progress, told.note, told.invalid) == (1.0, "loading", 0)
    assert told.feed(b'{"note": "done"}\n')
    assert (told.progress, told.note) == (1.0, "done")


def test_a_line_that_has_not_ended_tells_nothing_yet() -> None:
    told = Progress()
    assert not told.feed(b'{"progress": ')
    assert not told.feed(b"0.5}")
    assert told.progress is None
    assert told.feed(b"\n")
    assert told.progress == 0.5


@pytest.mark.parametrize(
    "line",
    [
        b"0.5", b'"text"', b"[]", b"null", b"{", b"\xff\xfe", b'{"progress": -0.1}',
        b'{"progress": 1.01}', b'{"progress": NaN}', b'{"progress": Infinity}',
        b'{"progress": true}', b'{"progress": "0.5"}', b'{"progress": 1e999}',
        b'{"progress": 1' + b"0" * 4000 + b"}", b'{"note": 5}', b'{"note": ["a"]}', b"[" * 4000,
    ],
    ids=lambda line: line[:24].decode("ascii", "replace"),
)  # fmt: skip
def test_a_line_that_is_no_progress_is_counted_and_changes_nothing(line: bytes) -> None:
    told = Progress()
    told.feed(b'{"progress": 0.5, "note": "x"}\n')
    assert not told.feed(line + b"\n")
    assert (told.progress, told.note, told.invalid) == (0.5, "x", 1)


def test_a_line_too_long_is_one_invalid_line_in_bounded_memory() -> None:
    told = Progress()
    for _ in range(100):
        assert not told.feed(b" " * 65_536)
        assert len(told._rest) <= MAX_LINE_BYTES
    assert told.feed(b'{"progress": 0.1}\n{"progress": 0.5}\n')
    assert (told.progress, told.invalid) == (0.5, 1)


def test_of_many_lines_the_last_are_looked_at() -> None:
    told = Progress()
    assert told.feed(b"junk\n" * 1000 + b'{"progress": 0.9}\n')
    assert told.progress == 0.9
    assert told.invalid <= MAX_LINES + 1


def test_a_note_is_cut() -> None:
    told = Progress()
    told.feed(json.dumps({"note": "n" * 3000}).encode() + b"\n")
    assert told.note == "n" * MAX_NOTE_CHARACTERS


@settings(deadline=None)
@given(LINES, st.lists(st.integers(1, 40), max_size=10))
def test_it_does_not_matter_how_the_lines_are_read(lines: list[bytes], cuts: list[int]) -> None:
    text = b"".join(line + b"\n" for line in lines)
    whole, pieces = Progress(), Progress()
    whole.feed(text)
    left = text
    for cut in cuts:
        pieces.feed(left[:cut])
        left = left[cut:]
    pieces.feed(left)
    said = [(each.progress, each.note, each.invalid) for each in (whole, pieces)]
    assert said[0] == said[1]
    assert whole.progress is None or (0 <= whole.progress <= 1 and math.isfinite(whole.progress))
