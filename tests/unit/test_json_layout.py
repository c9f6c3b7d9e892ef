"""JSON laid out for people says the same, and grows within a bound."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.json_layout import MOST_GROWTH, laid_out

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)
TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{},:]|[^\s"\[\]{},:]+', re.DOTALL)


@given(value=values, is_ascii=st.booleans(), gap=st.sampled_from((None, 0, 3)))
def test_every_token_stays_as_it_is(value: object, is_ascii: bool, gap: int | None) -> None:
    text = json.dumps(value, ensure_ascii=is_ascii, indent=gap)
    shown = laid_out(text)
    assert TOKEN.findall(shown) == TOKEN.findall(text)
    assert json.loads(shown) == value


def test_people_read_a_line_an_item() -> None:
    text = '{"a":1.00,"a":[],"b":[{"c":"x, [y]: {z}"},12345678901234567890123]}'
    assert laid_out(text) == (
        '{\n  "a": 1.00,\n  "a": [],\n  "b": [\n    {\n      "c": "x, [y]: {z}"\n    },\n'
        "    12345678901234567890123\n  ]\n}"
    )


@pytest.mark.parametrize(
    "text", ["", "plain", "[1", "{]", '{"a": tru}', "[" * 2000, '"text"', "\0["]
)
@given(more=st.text(alphabet="a[{", max_size=3))
def test_what_is_no_json_stays_as_it_is(text: str, more: str) -> None:
    assert laid_out(text + more) == text + more


@pytest.mark.parametrize(
    "text",
    ["[" * 850 + "]" * 850, "[" * 100_000, "[" + "[]," * 20_000 + "[]]", "[1" + ",1" * 9000 + "]"],
)
def test_a_layout_grows_within_its_bound(text: str) -> None:
    assert len(laid_out(text)) <= MOST_GROWTH * len(text) + 1024
