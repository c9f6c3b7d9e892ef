"""Laws of fingerprints: stable under values, told apart by words, bounded in time and size."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.fingerprint import (
    FINGERPRINT,
    MAX_TITLE,
    Fingerprint,
    last_words,
    of_letter,
    of_many,
    of_task,
    plain,
)

TEXTS = st.text(
    alphabet=st.sampled_from(
        "abE fx0159/.:'\"<>n-@~\\\t_[](),%#\N{LATIN SMALL LETTER E WITH ACUTE}"
    )
)
WORDS = st.lists(
    st.text(alphabet="ghijklmopqrstuvwyz", min_size=3, max_size=9), min_size=1, max_size=6
)
TRACEBACK = """Traceback (most recent call last):
  File "/srv/app/run.py", line {line}, in work
    read(path)
  File "/usr/lib/python3.12/json/decoder.py", line 337, in decode
    obj, end = self.raw_decode(s)
{error}
"""


def task(stderr: str, *, kind: str = "exit", code: int | None = 3, detail: str = "") -> Fingerprint:
    return of_task("main", kind, exit_code=code, detail=detail, stderr=stderr.encode())


@given(st.one_of(TEXTS, st.text()))
def test_what_has_no_values_stays_as_it_is(text: str) -> None:
    assert plain(plain(text)) == plain(text)
    assert len(plain(text)) <= MAX_TITLE
    assert "\n" not in plain(text)


@given(WORDS, st.integers(0, 10**18), st.integers(0, 10**18), st.uuids(), st.uuids())
def test_numbers_and_ids_do_not_tell_failures_apart(
    words: list[str], one: int, two: int, first: object, second: object
) -> None:
    text = " ".join(words)
    assert task(f"{text} {one} of {first}") == task(f"{text} {two} of {second}")
    assert task(f"{text} /data/{one}/x") == task(f"{text} /srv/{two}/deeper/y.txt")
    assert task(f"2026-03-14 03:10:{one % 60:02} {text}") == task(text)


@given(WORDS, WORDS)
def test_other_words_are_another_failure(one: list[str], two: list[str]) -> None:
    assert (task(" ".join(one)) == task(" ".join(two))) == (one == two)


@given(st.binary(max_size=300))
def test_any_output_gives_a_group(stderr: bytes) -> None:
    found = of_task("main", "exit", exit_code=2, detail="", stderr=stderr)
    assert FINGERPRINT.fullmatch(found.id)
    assert found.title.startswith("exit 2")
    assert found.title.encode("utf-8")


@pytest.mark.parametrize(
    ("stderr", "title"),
    [
        ("cannot open /data/c7/0188.txt\n", "exit 3: cannot open <path>"),
        ("c7/01.txt: No such file or directory\n", "exit 3: <path>: No such file or directory"),
        ("12:00:01 [ERROR] Input/output error (5)", "exit 3: Input/output error (<n>)"),
        ("no quota for 'acme'\n\n====\n", "exit 3: no quota for <text>"),
        ("index 7 is past 3\nnote: run with BACKTRACE=1\n", "exit 3: index <n> is past <n>"),
        (TRACEBACK.format(line=7, error="KeyError: 'tenant'"), "exit 3: KeyError: <text> in work"),
        ("", "exit 3"),
        ("100%\n", "exit 3"),
        ("token=abcdef failed", "exit 3: token=*** failed"),
    ],
    ids=["path", "tree", "log", "quoted", "note", "traceback", "silent", "progress", "secret"],
)  # fmt: skip
def test_titles_are_for_people(stderr: str, title: str) -> None:
    assert task(stderr).title == title


def test_kinds_codes_and_clusters_are_told_apart() -> None:
    same = task("no")
    assert task("no", code=4).id != same.id
    assert of_task("other", "exit", exit_code=3, detail="", stderr=b"no").id != same.id
    signal = task("", kind="signal", code=-11, detail="killed by SIGSEGV")
    assert signal.title == "killed by SIGSEGV"
    late = task("frame 7 of 9", kind="timeout", code=None, detail="no end within 45 s")
    assert late.title == "timeout: no end within <n> s"
    assert of_many("main", "exit").title == "exit: all kinds of words"


def test_a_letter_is_named_by_its_stage_its_sink_and_what_was_raised() -> None:
    refused = of_letter(
        "main", "deliver", "delivery", reason="503 from 10.0.0.7", traceback="", sink="results"
    )
    assert refused.title == "deliver of results: <n> from <n>"
    trace = TRACEBACK.format(line=12, error="pydantic_core.ValidationError: 2 fields")
    parsed = of_letter("main", "parse", "parse", reason="parse raised", traceback=trace, sink="")
    assert parsed.title == "parse: pydantic_core.ValidationError: <n> fields in work"


@pytest.mark.parametrize(
    "piece", ["a", "1", "/", "<n> ", "a/", "'", "0x", "ab1", "a:/", "://", "-"]
)
def test_no_output_takes_long(piece: str) -> None:
    text = piece * (2_000_000 // len(piece))
    begin = time.process_time()
    last_words(text.encode())
    last_words("\n".join([piece * 40] * 20_000).encode())
    plain(text)
    assert time.process_time() - begin < 0.5
