"""Values that are frozen for the type checker only."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from mypy import api

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


def test_the_type_checker_refuses_to_change_a_value(tmp_path: Path) -> None:
    program = (
        "from domain.value import value\n"
        "@value(frozen=True, slots=True, kw_only=True)\n"
        "class Point:\n"
        "    x: int\n"
        "Point(x=1).x = 2\n"
    )
    options = ["--strict", f"--config-file={os.devnull}", f"--cache-dir={tmp_path}"]
    said, _, code = api.run([*options, "-c", program])
    assert code == 1, said
    assert '<string>:5: error: Property "x" defined in "Point" is read-only' in said
