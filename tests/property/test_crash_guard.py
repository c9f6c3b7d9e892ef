"""What owners leave to each other, in any order of deaths, departures and returns."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.commit import MAX_LOST, MAX_METADATA_CHARACTERS, CommitMetadata

OFFSETS = st.none() | st.integers(0, 2)


@dataclass(frozen=True)
class Life:
    """How one owner's epoch ended, and what it had in hand then."""

    mark: int | None
    running: int | None
    is_alone: bool
    has_left: bool


LIVES = st.lists(st.builds(Life, OFFSETS, OFFSETS, st.booleans(), st.booleans()), max_size=12)


def end_of(heir: CommitMetadata, life: Life) -> CommitMetadata:
    """What the group knows of an owner when it is gone."""
    is_alone = life.is_alone and life.running is not None
    return replace(
        heir, mark=life.mark, running=life.running, is_alone=is_alone, has_left=life.has_left
    )


def heir_after(lives: list[Life]) -> CommitMetadata:
    """The heir of owners without progress; run ``n`` is the ``n``-th of them."""
    heir = CommitMetadata(run="0")
    for number, life in enumerate(lives, 1):
        read = CommitMetadata.decode(end_of(heir, life).encode())
        assert read is not None
        heir = CommitMetadata.inherit(read, str(number))
    return heir


@given(LIVES)
def test_nothing_is_held_against_a_message_that_did_not_run_at_a_death(lives: list[Life]) -> None:
    heir = heir_after(lives)
    deaths = [life for life in lives if not life.has_left]
    in_steps = [d for d in deaths if d.mark is not None and d.running is None]
    alone = [d for d in deaths if d.is_alone and d.mark in (None, d.running)]
    assert heir.deaths == len(deaths)
    assert heir.strikes <= sum(d.mark == heir.suspect for d in in_steps)
    assert heir.lone_deaths <= sum(d.running == heir.lone is not None for d in alone)


@given(LIVES)
def test_deaths_while_programs_ran_make_no_poison(lives: list[Life]) -> None:
    at_work = [replace(life, running=life.running or 0) for life in lives]
    assert heir_after(at_work).strikes == 0


@given(st.integers(0, 2), st.integers(1, 6))
def test_what_kills_in_a_row_is_counted(offset: int, times: int) -> None:
    step = Life(mark=offset, running=None, is_alone=False, has_left=False)
    heir = heir_after([step] * times)
    assert (heir.suspect, heir.strikes) == (offset, times)
    program = Life(mark=None, running=offset, is_alone=True, has_left=False)
    heir = heir_after([program] * times)
    assert (heir.lone, heir.lone_deaths) == (offset, times)


@given(LIVES)
def test_those_that_live_are_taken_back_whole(lives: list[Life]) -> None:
    heir = heir_after(lives[:8])
    found = heir.without({str(number) for number in range(len(lives))})
    assert (found.deaths, found.strikes, found.lone_deaths) == (0, 0, 0)
    assert not heir.deaths or (found.suspect, found.lone) == (None, None)


@given(LIVES, st.integers(0, 11))
def test_a_run_never_counts_its_own_death(lives: list[Life], number: int) -> None:
    heir = heir_after(lives[:8])
    again = CommitMetadata.inherit(replace(heir, has_left=True), str(number))
    assert str(number) not in again.dead + again.struck + again.lone_dead


@given(LIVES)
def test_a_departure_counts_nothing(lives: list[Life]) -> None:
    left = [replace(life, has_left=True) for life in lives]
    assert heir_after(left) == CommitMetadata(run=str(len(lives)))


@given(LIVES)
def test_progress_ends_what_is_held_against_lower_offsets(lives: list[Life]) -> None:
    found = heir_after(lives).passed(3)
    assert (found.deaths, found.suspect, found.lone) == (0, None, None)


def test_the_longest_metadata_fits() -> None:
    name = "0" * 12
    longest = CommitMetadata(
        run="0190a5b0-0000-7000-8000-000000000000",
        has_left=True,
        deaths=10**6,
        mark=2**62,
        running=2**62,
        task="2147483647:9223372036854775807:99999" + ".r10" * 10,
        is_alone=True,
        suspect=2**62,
        strikes=10**6,
        lone=2**62,
        lone_task="2147483647:9223372036854775807:99999" + ".r10" * 10,
        lone_deaths=10**6,
        is_paused=True,
        began=2**31,
        lost=(2**31,) * MAX_LOST,
        dead=(name,) * 8,
        struck=(name,) * 8,
        lone_dead=(name,) * 8,
    )
    assert len(longest.encode()) <= MAX_METADATA_CHARACTERS
    assert CommitMetadata.decode(longest.encode()) == longest


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ('{"run":"a","deaths":3,"mark":7,"suspect":7,"strikes":2}', (4, 7, 3)),
        ('{"run":"a","deaths":1}', (2, None, 0)),
        ('{"run":"a","left":true,"deaths":2,"suspect":7,"strikes":1}', (2, 7, 1)),
    ],
)
def test_what_an_older_release_left_is_read(text: str, counts: tuple[int, int | None, int]) -> None:
    heir = CommitMetadata.inherit(CommitMetadata.decode(text), "b")
    assert (heir.deaths, heir.suspect, heir.strikes) == counts
    body = json.loads(heir.encode())
    assert body.get("deaths") == counts[0], "an older release reads it, too"
