"""Values that are frozen for the type checker only."""

from __future__ import annotations

from dataclasses import replace

from domain.value import value


@value(frozen=True, slots=True, kw_only=True)
class Point:
    x: int
    y: int = 0


def test_a_value_is_equal_hashed_and_replaced_as_a_frozen_dataclass() -> None:
    point = Point(x=1)
    assert point == Point(x=1, y=0) != replace(point, y=2)
    assert {point: "there"}[Point(x=1)] == "there"
    assert repr(point) == "Point(x=1, y=0)"
