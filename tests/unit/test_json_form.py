"""What handlers hand over as JSON: exact, or refused with its path."""

from __future__ import annotations

import json
import math
from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from types import MappingProxyType
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from sinks.json_form import NotJson, encode_json


class Level(Enum):
    """An enum of other values than text."""

    HIGH = 1.5
    NONE = math.nan


class Number(IntEnum):
    """A whole number that has a name."""

    ONE = 1


class Model(BaseModel):
    """What a handler may have parsed."""

    at: date
    part: float = 0.5


@dataclass
class Point:
    """A record of the handler's own."""

    x: float


@dataclass(slots=True)
class Hidden:
    """A record with a field that is nobody else's business, but data all the same."""

    x: float
    _y: float = 2.0


class Name(StrEnum):
    """A field's name that has a name."""

    A = "a"


Pair = namedtuple("Pair", "left right")

FORMS: list[tuple[Any, Any]] = [
    (datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC), "2026-01-02T03:04:05.678901+00:00"),
    (date(2026, 1, 2), "2026-01-02"),
    (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    (Decimal("12.30"), "12.30"),
    (Level.HIGH, 1.5),
    (Number.ONE, 1),
    (Point(1.0), {"x": 1.0}),
    (Hidden(1.0), {"x": 1.0, "_y": 2.0}),
    ({Name.A: {Name.A: 1}}, {"a": {"a": 1}}),
    (Model(at=date(2026, 1, 2)), {"at": "2026-01-02", "part": 0.5}),
    (MappingProxyType({"a": [1, None]}), {"a": [1, None]}),
    (OrderedDict(a=1), {"a": 1}),
    ((1, 2), [1, 2]),
    (Pair(1, 2), [1, 2]),
    (None, None),
    ("null", "null"),
    (2**64 - 1, 2**64 - 1),
]


@pytest.mark.parametrize(("value", "expected"), FORMS, ids=lambda one: type(one).__name__)
def test_what_has_a_form_is_taken(value: Any, expected: Any) -> None:
    assert json.loads(encode_json({"a": [value, None]}, "record")) == {"a": [expected, None]}


def cyclic() -> list[Any]:
    value: list[Any] = []
    value.append({"again": value})
    return value


REFUSED: dict[str, Any] = {
    "record.a[1]: expected a finite number, got nan": {"a": [1, math.nan]},
    "record.a.b: expected a finite number, got -inf": {"a": {"b": -math.inf}, "c": None},
    "record.x: expected a finite number, got inf": Point(math.inf),
    "record.part: expected a finite number, got nan": Model(at=date.min, part=math.nan),
    "record[0]: expected a finite number, got nan": [Level.NONE],
    "record.d: expected a finite number, got NaN": {"d": Decimal("NaN")},
    "record.s: expected a value that JSON has a form for, got set": {"s": {1}},
    "record.b: expected a value that JSON has a form for, got bytes": {"b": b"x"},
    "record.n: expected at most 64 bits, got 65": {"n": 2**64},
    "record.t: expected text of whole characters": {"t": "\ud800"},
    "record: expected text of whole characters": {"\ud800": 1},
    "record.m: expected names that are text, got int 1": {"m": {1: 2}},
    "record[0].again[0].again": cyclic(),
}


@pytest.mark.parametrize("start", REFUSED)
def test_what_has_none_is_refused_by_its_path(start: str) -> None:
    with pytest.raises(NotJson) as caught:
        encode_json(REFUSED[start], "record")
    assert str(caught.value).startswith(start)
    assert len(str(caught.value)) < 500
    str(caught.value).encode()


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(JSON)
def test_json_comes_back_as_it_was(value: Any) -> None:
    assert json.loads(encode_json(value, "record")) == value


@given(JSON, st.sampled_from([math.nan, math.inf, -math.inf]))
def test_no_number_that_json_lacks_passes(value: Any, bad: float) -> None:
    with pytest.raises(NotJson, match=r"record\[1\]: expected a finite number"):
        encode_json([value, bad], "record")
