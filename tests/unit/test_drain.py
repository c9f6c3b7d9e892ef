"""When a lag is drained: a range, and never a time where it does not fall."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.drain import Course, drain, paces

Points = list[tuple[float, float]]


def moved(*changes: float, first: float = 10_000.0) -> Points:
    """A lag that changed by so much each ten seconds."""
    points = [(0.0, first)]
    for n, change in enumerate(changes, 1):
        points.append((10.0 * n, points[-1][1] + change))
    return points


def test_the_paces_are_the_quartiles_of_each_minute() -> None:
    assert paces(moved(*[-10.0] * 30)) == (-1.0, -1.0)
    found = paces(moved(*[-10.0] * 15, *[-30.0] * 15))
    assert found is not None
    assert list(found) == pytest.approx([-3.0, -1.0])


@pytest.mark.parametrize("points", [moved(), moved(-10.0), moved(*[-10.0] * 5)])
def test_less_than_a_minute_tells_nothing(points: Points) -> None:
    assert paces(points) is None


def test_what_was_longer_ago_than_five_minutes_does_not_count() -> None:
    assert paces(moved(*[500.0] * 30, *[-10.0] * 36)) == (-1.0, -1.0)


@pytest.mark.parametrize(
    ("lag", "seen", "course", "words"),
    [
        (0, (-1.0, -1.0), Course.EMPTY, "nothing waits"),
        (0, None, Course.EMPTY, "nothing waits"),
        (None, (-1.0, -1.0), Course.UNKNOWN, "when it is drained is unknown"),
        (100, None, Course.UNKNOWN, "when it is drained is unknown"),
        (100, (0.5, 2.0), Course.GROWS, "grows, does not drain"),
        (100, (-1.0, 1.0), Course.STEADY, "steady, does not drain"),
        (540, (-1.5, -1.0), Course.FALLS, "drained in 6 to 9 min"),
        (540, (-1.5, 0.0), Course.FALLS, "drained in 6 min or more"),
        (3, (-1.5, 0.0), Course.FALLS, "drained in a minute or more"),
        (1, (-1000.0, -1000.0), Course.FALLS, "drained in under a minute"),
        (100, (-10.0, -1.0), Course.FALLS, "drained in up to 2 min"),
        (360, (-1.0, -1.0), Course.FALLS, "drained in 6 min"),
        (36_000, (-2.0, -1.0), Course.FALLS, "drained in 5 to 10 h"),
        (864_000, (-2.0, -1.0), Course.FALLS, "drained in 5 to 10 d"),
    ],
)
def test_the_words(
    lag: float | None, seen: tuple[float, float] | None, course: Course, words: str
) -> None:
    found = drain(lag, seen)
    assert (found.course, found.words) == (course, words)


@given(st.floats(0, 1e12), st.tuples(st.floats(-1e9, 1e9), st.floats(-1e9, 1e9)))
def test_any_figures_have_words_and_only_what_falls_a_time(
    lag: float, seen: tuple[float, float]
) -> None:
    low, high = sorted(seen)
    found = drain(lag, (low, high))
    assert found.words
    assert ("drained in" in found.words) == (found.course is Course.FALLS)
    if found.soonest_seconds is not None and found.latest_seconds is not None:
        assert found.soonest_seconds <= found.latest_seconds
