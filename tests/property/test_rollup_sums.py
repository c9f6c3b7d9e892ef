"""Laws of sums: whatever way observations take, stored, shed or adopted, they count once."""

from __future__ import annotations

from pickle import dumps

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.events import Consumed
from domain.log_buckets import BOUNDS_US, GROWTH, bucket_of, quantile_ms
from recorder.rollups.sums import DAY, HOUR, MOST_VALUES, Cell, Observation, Sums, Tally
from recorder.spool import plain

DURATIONS = st.none() | st.integers(0, 10**13)
OBSERVATIONS: st.SearchStrategy[Observation] = st.tuples(
    st.integers(0, 5_000).map(lambda minute: minute * 60),
    st.sampled_from(["task", "message"]),
    st.sampled_from(["completed", "failed"]),
    st.sampled_from(["", "exit"]),
    st.just(""),
    st.sampled_from([(), (("tenant", "a"),), (("tenant", "b"), ("tier", "x"))]),
    st.integers(1, 3),
    DURATIONS,
    DURATIONS,
    DURATIONS,
    st.none() | st.integers(0, 2**45),
    st.integers(0, 2**45),
)
WAYS = st.sampled_from(["row", "account", "spooled row", "account of an account"])


def of(observations: list[Observation]) -> Sums:
    sums = Sums()
    for each in observations:
        sums.add(each)
    return sums


@given(st.lists(st.tuples(OBSERVATIONS, WAYS), max_size=60))
def test_each_way_to_the_table_counts_once(taken: list[tuple[Observation, str]]) -> None:
    """What is shed joins an account, whose row may be shed itself, and joins the next one."""
    found, shed = Sums(), Sums()
    for seen, way in taken:
        row = {"tally": [seen]}
        if way == "row":
            found.add_rows([row])
        elif way == "spooled row":
            found.add_rows([plain(dumps(row))])
        else:
            shed.add_rows([row])
            if way == "account of an account":
                again = Sums()
                again.add_rows([plain(dumps({"sums": shed.carried()}))])
                shed = again
    found.add_rows([{"sums": shed.carried()}])
    assert found.cells == of([seen for seen, _ in taken]).cells


@given(st.lists(OBSERVATIONS, max_size=60))
def test_hours_and_days_have_the_sums_of_their_minutes(seen: list[Observation]) -> None:
    minutes = of(seen)
    assert minutes.rounded(HOUR).rounded(DAY).cells == minutes.rounded(DAY).cells

    def whole(sums: Sums) -> Cell:
        total = Cell()
        for cell in sums.cells.values():
            total.add(cell)
        return total

    assert whole(minutes) == whole(minutes.rounded(HOUR)) == whole(minutes.rounded(DAY))


@given(st.lists(st.integers(1_001, BOUNDS_US[-1]), min_size=1, max_size=200), st.floats(0.01, 1))
def test_a_quantile_is_wrong_by_less_than_a_bucket(durations_us: list[int], share: float) -> None:
    counts = [0] * (len(BOUNDS_US) + 1)
    for each in durations_us:
        counts[bucket_of(each)] += 1
    found = quantile_ms(counts, share)
    assert found is not None
    rank = next(n for n in range(1, len(durations_us) + 1) if n >= share * len(durations_us))
    true_ms = sorted(durations_us)[rank - 1] / 1000.0
    assert true_ms / GROWTH / 1.01 <= found <= true_ms * GROWTH * 1.01


def test_of_nothing_there_is_no_quantile() -> None:
    assert quantile_ms([], 0.5) is None
    assert quantile_ms([0, 0], 0.99) is None


def test_what_another_release_spooled_is_passed_over() -> None:
    sums = Sums()
    sums.add_rows([{"tally": [("a", 1)]}, {"sums": [["x"]]}, {"tally": 3}, {"kind": "consumed"}])
    assert not sums


def test_an_event_that_cannot_be_counted_is_said_and_takes_nothing_with_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    broken = Consumed(at=1.0, topic="t", partition=0, offset=1, timestamp=1, size_bytes="x")  # type: ignore[arg-type]
    whole = Consumed(at=1.0, topic="t", partition=0, offset=2, timestamp=1, size_bytes=5)
    assert len(Tally().observe_all([broken, whole])) == 1
    assert "consumed is not counted" in caplog.text


NAMES = st.lists(st.sampled_from([f"v{n}" for n in range(40)]), unique=True, max_size=30)


@given(NAMES, NAMES, NAMES)
def test_values_are_those_of_the_cluster_then_own_ones_while_there_is_room(
    met: list[str], chosen: list[str], later: list[str]
) -> None:
    tally = Tally(["tenant"])
    for value in met:
        tally._labels({"tenant": value})
    tally.agree({"tenant": chosen[:MOST_VALUES]})
    counted = {value for value in later if tally._labels({"tenant": value}) == (("tenant", value),)}
    assert counted >= set(chosen[:MOST_VALUES]) & set(later)
    assert len(counted | set(chosen[:MOST_VALUES])) <= MOST_VALUES
