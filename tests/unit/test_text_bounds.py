"""What is told of labels, reasons and errors has a bound; what is made plain keeps its content."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.task import Task, accepted
from domain.text_bounds import (
    MAX_LABELS,
    MAX_NAME,
    MAX_REASON,
    MAX_VALUE,
    TextBounds,
    described,
    finite,
    number,
    plain_text,
    shortened,
)

label_values = st.text() | st.integers() | st.floats() | st.booleans() | st.none()


@given(st.dictionaries(st.text() | st.integers(), label_values))
def test_labels_are_texts_within_their_bounds(given_labels: dict[Any, Any]) -> None:
    kept = TextBounds().labels(given_labels)
    assert len(kept) <= MAX_LABELS
    for name, value in kept.items():
        assert type(name) is type(value) is str
        assert len(name) <= MAX_NAME
        assert len(value) <= MAX_VALUE


def test_what_is_cut_is_counted() -> None:
    bounds = TextBounds()
    bounds.labels({f"n{n}": "v" * MAX_VALUE for n in range(MAX_LABELS)})
    bounds.reason("r" * MAX_REASON)
    assert bounds.cuts == {"label": 0, "labels": 0, "reason": 0}
    labels = {"n" * 65: "v" * 257} | {f"n{n}": "" for n in range(MAX_LABELS + 4)}
    kept = bounds.labels(labels)
    assert kept["n" * 61 + "..."] == "v" * 253 + "..."
    assert bounds.reason("r" * 9000).count("r") < MAX_REASON + 20
    assert bounds.cuts == {"label": 2, "labels": 5, "reason": 1}


@pytest.mark.parametrize("value", [["x"], {"a": 1}, b"x", object(), ("x",)])
def test_what_is_no_label_is_refused_by_name(value: Any) -> None:
    with pytest.raises(TypeError, match="labels"):
        TextBounds().labels({"a": value})


@given(st.text())
def test_a_subclass_of_text_keeps_its_content(text: str) -> None:
    class Other(str):
        __slots__ = ()

        def __str__(self) -> str:
            return "other"

        def __format__(self, spec: str) -> str:
            return "other"

    found = plain_text(Other(text))
    assert found == text
    assert type(found) is str


@given(st.text(max_size=5000), st.integers(10, 100))
def test_a_shortened_text_keeps_both_ends(text: str, most: int) -> None:
    found = shortened(text, most)
    assert len(found) <= max(most, most + 40)
    assert found.startswith(text[: most // 2])
    assert found.endswith(text[-(most // 2) :] if len(text) > most else text)


@pytest.mark.parametrize(
    ("given_number", "as_number", "as_finite"),
    [
        (1, 1.0, 1.0),
        (True, 1.0, 1.0),
        (float("inf"), float("inf"), None),
        (float("nan"), None, None),
        (10**400, None, None),
        ("1", None, None),
        (None, None, None),
    ],
)
def test_numbers_from_outside(
    given_number: Any, as_number: float | None, as_finite: float | None
) -> None:
    assert number(given_number) == as_number
    assert finite(given_number) == as_finite


def test_an_error_is_described_whatever_its_words_do() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise KeyError

    assert described(Mute()).startswith("Mute: ")
    assert len(described(ValueError("x" * 10**6))) < 3000


def test_an_accepted_task_is_nobody_elses() -> None:
    env, labels, args = {"A": "b"}, {"a": "b"}, ["x"]
    task = accepted(Task(args=args, env=env, labels=labels), TextBounds(), task_id="0:1:0")
    args.append("y")
    env["A"] = labels["a"] = "other"
    assert (task.args, task.env, task.labels, task.id) == (("x",), {"A": "b"}, {"a": "b"}, "0:1:0")
