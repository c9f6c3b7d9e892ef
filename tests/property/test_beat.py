"""A heartbeat's records: what is written is read, and what another release wrote is read too."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.beat import (
    MAX_TEXT,
    Beat,
    Blocker,
    CounterBeat,
    LatencyBeat,
    PartitionBeat,
    PoolBeat,
    Record,
    RecorderBeat,
    RunningTask,
    SinkBeat,
    from_json,
    rows_from_json,
    to_json,
)

for _scalar, _values in (
    (int, st.integers(-(2**63), 2**64 - 1)),
    (float, st.floats(allow_nan=False, allow_infinity=False)),
    (str, st.text(max_size=20)),
):
    st.register_type_strategy(_scalar, _values)
BEATS = st.from_type(Beat)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=12,
)
PARTS = (
    Beat, Blocker, CounterBeat, LatencyBeat, PartitionBeat, PoolBeat, RecorderBeat, RunningTask,
    SinkBeat,
)  # fmt: skip


@given(BEATS)
def test_a_beat_comes_back_from_its_json(beat: Beat) -> None:
    assert from_json(Beat, json.loads(json.dumps(to_json(beat)))) == beat


@given(st.sampled_from(PARTS), JSON)
def test_any_document_reads(part: type[Record], document: Any) -> None:
    found = from_json(part, document)
    assert found is None or isinstance(found, part)
    assert all(isinstance(row, part) for row in rows_from_json(part, document))


@given(BEATS, st.data())
def test_a_figure_of_another_type_is_unknown_and_costs_no_other(beat: Beat, data: Any) -> None:
    document = to_json(beat)
    name = data.draw(st.sampled_from(sorted(document.keys() - {"state"})))
    strange = from_json(Beat, {**document, name: True, "of a later release": [{}]})
    missing = from_json(Beat, {key: value for key, value in document.items() if key != name})
    assert strange == missing
    assert missing is not None
    kept = to_json(missing)
    assert {key: kept[key] for key in document if key != name} == {
        key: value for key, value in document.items() if key != name
    }


def test_a_document_of_an_older_release_reads_with_unknown_figures() -> None:
    old = {
        "topic": "t", "partition": 3, "state": "running", "queue": 2, "lag": None,
        "blocker": {"offset": 5, "task_id": None}, "strip": [[2, False], [1, True]],
    }  # fmt: skip
    assert from_json(PartitionBeat, old) == PartitionBeat(
        topic="t",
        partition=3,
        state="running",
        queue=2,
        blocker=Blocker(offset=5),
        strip=((2, False), (1, True)),
    )
    assert from_json(PoolBeat, {"busy": 1}) == PoolBeat(busy=1)
    assert from_json(PoolBeat, {"busy": 1}).running is None  # type: ignore[union-attr]


def test_what_cannot_be_named_is_left_out() -> None:
    rows = [{"topic": "t"}, {"topic": "t", "partition": 1}, "no row", {"partition": 1}]
    assert rows_from_json(PartitionBeat, rows) == (PartitionBeat(topic="t", partition=1),)


@pytest.mark.parametrize("lag", [2**64, True, "7", 7.5, [7]])
def test_a_figure_that_is_none_is_unknown_not_zero(lag: Any) -> None:
    row = from_json(PartitionBeat, {"topic": "t", "partition": 1, "lag": lag})
    assert row == PartitionBeat(topic="t", partition=1)


def test_long_texts_and_lists_are_bounded() -> None:
    read = from_json(SinkBeat, {"name": "out", "last_error": "x" * (MAX_TEXT + 1)})
    assert read == SinkBeat(name="out", last_error="x" * MAX_TEXT)


def test_a_cluster_whose_lag_is_unknown_stays_in_the_lags() -> None:
    lags = {"main": None, "fast": 3}
    assert from_json(CounterBeat, {"lags": lags}) == CounterBeat(lags=lags)
