"""Who is fetched while room is short."""

from __future__ import annotations

from itertools import pairwise

from workers.broker.base import TopicPartition
from workers.consumer.fair_fetch import MAX_REST_SECONDS, REST_SECONDS, ROUND_SECONDS, FairFetch

FULL, EMPTY, LATE = (TopicPartition("t", number) for number in range(3))
SHORT, AMPLE = 15, 70


def test_nobody_has_a_turn_while_there_is_room() -> None:
    fair_fetch = FairFetch(80)
    fair_fetch.step(0.0, AMPLE, lambda: {FULL: 10, EMPTY: 0})
    assert not fair_fetch.round


def test_those_that_hold_nothing_have_a_turn_and_each_gets_a_little() -> None:
    fair_fetch = FairFetch(80)
    fair_fetch.step(0.0, SHORT, lambda: {FULL: 60, EMPTY: 0, LATE: 0})
    assert fair_fetch.round == {EMPTY, LATE}
    assert fair_fetch.messages_each(SHORT) == 5
    fair_fetch.step(0.1, SHORT - 5, lambda: {FULL: 60, EMPTY: 5, LATE: 0})
    assert fair_fetch.round == {LATE}
    fair_fetch.step(0.2, SHORT - 10, lambda: {FULL: 60, EMPTY: 5, LATE: 5})
    assert not fair_fetch.round


def test_a_turn_ends_by_time_and_by_room() -> None:
    held = {FULL: 60, EMPTY: 0}
    fair_fetch = FairFetch(80)
    fair_fetch.step(0.0, SHORT, lambda: held)
    fair_fetch.step(ROUND_SECONDS / 2, SHORT, lambda: held)
    assert fair_fetch.round
    fair_fetch.step(ROUND_SECONDS, SHORT, lambda: held)
    assert not fair_fetch.round
    fair_fetch.on_assigned(ROUND_SECONDS, is_first=False)
    fair_fetch.step(ROUND_SECONDS, SHORT, lambda: held)
    assert fair_fetch.round, "one that has just come does not wait for the rest to end"
    fair_fetch.step(ROUND_SECONDS + 0.1, AMPLE, lambda: held)
    assert not fair_fetch.round


def test_the_first_partitions_of_a_worker_wait_for_nobody() -> None:
    """A round would throw away what the client has just fetched of the others."""
    fair_fetch = FairFetch(80)
    fair_fetch.on_assigned(10.0, is_first=True)
    fair_fetch.step(10.1, SHORT, lambda: {FULL: 60, EMPTY: 0})
    assert not fair_fetch.round
    fair_fetch.step(10.0 + REST_SECONDS, SHORT, lambda: {FULL: 60, EMPTY: 0})
    assert fair_fetch.round


def test_turns_that_serve_nobody_become_rare() -> None:
    """Nothing is read for partitions that are empty: the others are not held back for them."""
    held = {FULL: 60, EMPTY: 0}
    fair_fetch, now, begun = FairFetch(80), 0.0, []
    while now < 60:
        had_round = bool(fair_fetch.round)
        fair_fetch.step(now, SHORT, lambda: held)
        if fair_fetch.round and not had_round:
            begun.append(now)
        now += 0.125
    rests = [late - early - ROUND_SECONDS for early, late in pairwise(begun)]
    assert rests[0] == 2 * REST_SECONDS
    assert rests == sorted(rests)
    assert rests[-1] == MAX_REST_SECONDS


def test_without_a_reserve_there_are_no_turns() -> None:
    fair_fetch = FairFetch(7)
    fair_fetch.step(0.0, 1, lambda: {FULL: 6, EMPTY: 0})
    assert fair_fetch.reserve_messages == 0
    assert not fair_fetch.round
