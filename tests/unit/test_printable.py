"""What is printed steers no terminal, and can always be encoded."""

from __future__ import annotations

import logging
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.printable import printable, printable_block
from domain.tracebacks import MAX_TRACEBACK, traceback_of
from drakkar_site.accounts.masking import MaskTokens

KEPT = "a ü 漢 🙂 \\x1b"


@given(st.text(st.characters(codec=None)))
def test_a_line_is_one_line_of_what_can_be_shown(text: str) -> None:
    shown = printable(text)
    assert {unicodedata.category(each) for each in shown}.isdisjoint({"Cc", "Cs", "Zl", "Zp"})
    assert len(shown.splitlines()) <= 1
    shown.encode()


def test_what_is_harmless_stays() -> None:
    assert printable(KEPT) == printable_block(KEPT) == KEPT
    assert printable_block("a\n\tb\r\x1b[2J") == "a\n\tb\\x0d\\x1b[2J"
    assert printable("\u202egnp\x9b\udc80") == "\\u202egnp\\x9b\\udc80"


def test_a_logged_line_of_the_site_has_no_control_character() -> None:
    record = logging.LogRecord("drakkar", 30, "", 0, "refused: %s", ("\x1b[31m",), None)
    MaskTokens().filter(record)
    assert record.getMessage() == "refused: \\x1b[31m"


class Mute(Exception):
    """An error that cannot say what it is."""

    def __str__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize("error", [Mute(), ValueError("x" * 10_000_000), OSError("token=abc")])
def test_a_traceback_is_bounded_whatever_the_error(error: Exception) -> None:
    try:
        raise error
    except Exception as exc:
        text = traceback_of(exc)
    assert type(error).__name__ in text
    assert len(text) < MAX_TRACEBACK + 100
    assert "abc" not in text
