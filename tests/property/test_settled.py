"""What a commit says of offsets above it: it comes back, it names no message without a fate."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.commit import MAX_METADATA_CHARACTERS, CommitMetadata
from domain.settled import PassedOver, Ranges, fits, from_steps, ranges_of, shortened, to_steps

gaps = st.lists(st.tuples(st.integers(1, 9), st.booleans()), max_size=60).map(
    lambda steps: [
        (sum(step for step, _ in steps[: n + 1]), fate) for n, (_, fate) in enumerate(steps)
    ]
)


@given(gaps)
def test_the_ranges_hold_what_has_a_fate_and_nothing_else(found: list[tuple[int, bool]]) -> None:
    inherited = PassedOver(ranges_of(found))
    assert [inherited.has(offset) for offset, _ in found] == [fate for _, fate in found]


@given(gaps, st.integers(0, 2**62))
def test_they_come_back_through_the_metadata(found: list[tuple[int, bool]], start: int) -> None:
    ranges = ranges_of([(start + offset, fate) for offset, fate in found])
    assert from_steps(json.loads(json.dumps(to_steps(ranges)))) == ranges
    said = CommitMetadata(run="r", deaths=1, settled=shortened(ranges))
    assert CommitMetadata.decode(said.encode()) == said


@given(gaps, st.integers(0, 600))
def test_an_heir_hands_on_what_it_has_not_seen(found: list[tuple[int, bool]], seen: int) -> None:
    inherited = PassedOver(ranges_of(found))
    for offset, _ in found:
        if offset <= seen:
            inherited.has(offset)
    left = PassedOver(inherited.above(seen))
    assert [left.has(o) for o, _ in found if o > seen] == [f for o, f in found if o > seen]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-5, 2**64) | st.text(max_size=3),
        lambda inner: st.lists(inner, max_size=6),
    )
)
def test_what_another_program_wrote_is_refused_or_in_order(steps: object) -> None:
    try:
        ranges = from_steps(steps)
    except ValueError:
        return
    flat = [offset for pair in ranges for offset in pair]
    assert flat == sorted(flat)
    assert all(last < first for (_, last), (first, _) in pairwise(ranges))


def alternating(count: int) -> Ranges:
    return tuple((10**12 + 2 * n, 10**12 + 2 * n) for n in range(count))


@pytest.mark.parametrize("count", [1, 600, 5000])
def test_what_finds_no_room_is_cut_from_above(count: int) -> None:
    ranges = shortened(alternating(count))
    assert fits(ranges)
    assert ranges == alternating(count)[: len(ranges)]
    assert len(ranges) == count or len(ranges) > 300
    text = CommitMetadata(run="r" * 36, settled=ranges).encode()
    assert len(text) <= MAX_METADATA_CHARACTERS


def test_the_rest_of_the_word_comes_first_where_there_is_no_room_for_both() -> None:
    said = CommitMetadata(run="r" * 2500, deaths=2, settled=shortened(alternating(5000)))
    found = CommitMetadata.decode(said.encode())
    assert found == CommitMetadata(run="r" * 2500, deaths=2)
