"""What a payload holds comes back from its letter as it was, or is refused when it is written."""

from __future__ import annotations

import json
import math
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, StrEnum
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.payload import MemoryPayload, MongoPayload, PostgresPayload, RedisPayload, Upsert
from sinks.letter import decode_payload, encode_payload


def back(value: Any) -> Any:
    payload = MemoryPayload(sink="s", value=value)
    found = decode_payload(encode_payload(payload), MemoryPayload)
    assert isinstance(found, MemoryPayload)
    return found.value


NAMES = st.text() | st.sampled_from(["$bytes", "$set", "$map", "$time", "$unencodable", "$set_of"])
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text(st.characters())
    | st.binary()
    | st.datetimes(timezones=st.none() | st.just(UTC)).map(lambda one: one.replace(fold=0))
    | st.dates()
    | st.times().map(lambda one: one.replace(fold=0))
    | st.timedeltas()
    | st.decimals(allow_nan=False)
    | st.uuids()
)
VALUES = st.recursive(
    SCALARS | st.sets(st.integers(), max_size=1),
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(NAMES, inner)
        | st.dictionaries(st.integers() | st.binary() | st.frozensets(st.booleans()), inner)
        | st.frozensets(st.frozensets(st.integers(), max_size=1), max_size=1)
    ),
    max_leaves=15,
)


@given(VALUES)
def test_what_is_written_comes_back_equal_and_of_its_type(value: Any) -> None:
    found = back(value)
    assert found == value
    assert repr(found) == repr(value)


def test_no_number_comes_back_as_none() -> None:
    assert math.isnan(back(math.nan))
    assert math.isnan(back(Decimal("NaN")))


class Text(StrEnum):
    """Text with a name."""

    A = "a"


class Plain(Enum):
    """Of no text."""

    A = object()


def test_text_of_an_enum_comes_back_as_text() -> None:
    assert back({Text.A: Text.A}) == {"a": "a"}


@pytest.mark.parametrize(
    ("value", "path"),
    [({"a": [1, object()]}, r"value\.a\[1\]"), (Plain.A, "value"), (1 + 2j, "value")],
)
def test_what_would_not_come_back_is_refused_when_the_letter_is_written(
    value: Any, path: str
) -> None:
    raw = encode_payload(MemoryPayload(sink="s", value=value))
    assert set(json.loads(raw)["fields"]) == {"$unencodable", "$why"}
    with pytest.raises(ValueError, match=f"could not be written into its letter: {path}"):
        decode_payload(raw, MemoryPayload)


@pytest.mark.parametrize(
    "payload",
    [
        RedisPayload(sink="s", key="k", value={"a", "b"}, op="sadd"),
        RedisPayload(sink="s", key="k", value={b"m": 1.5, 7: 2}, op="zadd"),
        RedisPayload(sink="s", key="k", value=(0, 5), op="trim"),
        MongoPayload(
            sink="s", document={"$set": {"a": Decimal("1.50")}}, op="update", key={"b": 1}
        ),
        PostgresPayload(
            sink="s",
            row={
                "a": UUID(int=5),
                "b": date(2026, 1, 2),
                "c": time(1),
                "d": timedelta(1),
                "e": (1,),
            },
            on_conflict=Upsert(keys=("a",), columns=["b"]),
        ),
        PostgresPayload(sink="s", row={"at": datetime(2026, 1, 2, tzinfo=UTC), "n": math.inf}),
    ],
    ids=lambda payload: payload.kind,
)
def test_a_payload_comes_back_whole(payload: Any) -> None:
    assert decode_payload(encode_payload(payload), type(payload)) == payload


def test_letters_of_earlier_versions_are_read() -> None:
    value = b'[{"$bytes":"YQ=="},{"$time":"2026-01-02"}]'
    raw = b'{"kind":"memory","sink":"s","fields":{"value":' + value + b"}}"
    found = decode_payload(raw, MemoryPayload)
    assert found == MemoryPayload(sink="s", value=[b"a", datetime(2026, 1, 2)])  # noqa: DTZ001
