"""The key and the group of a task: what is taken, and where it is shown."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

import pytest

from domain.task import MAX_NAME_BYTES, Task, accepted
from domain.text_bounds import TextBounds


@pytest.mark.parametrize("name", ["key", "group"])
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("x" * 10_000, "expected 1 to 255 bytes of UTF-8 or None, got 10,000"),
        ("\u00e9" * 128, "got 256"),
        ("", "got 0"),
        (5, "expected text or None, got int 5; write str(...)"),
        (b"k", "expected text or None, got bytes"),
        ("a\0b", "without NUL"),
        ("\ud800", "without lone surrogates"),
    ],
)
def test_what_is_no_name_is_refused_by_its_field(name: str, given: Any, said: str) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        accepted(Task(**{name: given}), TextBounds())
    assert str(caught.value).startswith(f"{name}: ")
    assert said in str(caught.value)


def test_the_longest_name_is_taken_and_a_path_is_text() -> None:
    task = accepted(Task(key="k" * MAX_NAME_BYTES, group=PurePosixPath("/t")), TextBounds())  # type: ignore[arg-type]
    assert (task.key, task.group) == ("k" * MAX_NAME_BYTES, "/t")


def test_both_stand_among_the_labels_unless_the_handler_has_its_own_there() -> None:
    task = accepted(Task(key="k", group="t", labels={"group": "own", "a": "b"}), TextBounds())
    assert task.labels == {"group": "own", "a": "b", "key": "k"}
    assert accepted(Task(), TextBounds()).labels == {}


def test_a_replacement_has_the_key_of_the_failed_task_whatever_it_names() -> None:
    failed = Task(key="k", group="t")
    one = accepted(Task(key="other"), TextBounds(), in_place_of=failed)
    assert (one.key, one.group, one.labels) == ("k", "t", {"key": "k", "group": "t"})
    own = accepted(Task(key="own", group="u"), TextBounds(), in_place_of=Task(group="t"))
    assert (own.key, own.group) == ("own", "u")
