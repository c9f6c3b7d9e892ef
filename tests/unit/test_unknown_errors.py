"""Whose fault an error is that no table knows: the judgement, and what a lane makes of it."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.breaker import BreakerPolicy
from sinks.base import UnknownError
from sinks.lane_queue import OutcomeKind
from sinks.unknown_errors import LAST_PAUSE_SECONDS, LONE_ATTEMPTS, UnknownErrors
from tests.support.lanes import Collector
from tests.unit.test_lane import ScriptedSink, entries, running

PATIENT = BreakerPolicy(failure_threshold=1000)


def test_another_that_was_stored_proves_it() -> None:
    judge = UnknownErrors()
    before = judge.stored
    assert not judge.is_proven(stored_before=before)
    judge.note_stored(1)
    assert judge.is_proven(stored_before=before)


def test_an_ill_server_costs_a_letter_a_minute_at_most() -> None:
    judge, refused, now = UnknownErrors(), [], 0.0
    while now < 3600.0:
        if judge.refuses_unproven(lone_failures=LONE_ATTEMPTS, now=now):
            refused.append(now)
        now += 0.5
    assert len(refused) < 3600 / LAST_PAUSE_SECONDS + 7
    gaps = [late - early for early, late in pairwise(refused)]
    assert gaps == sorted(gaps)
    judge.note_stored(1)
    assert judge.refuses_unproven(lone_failures=LONE_ATTEMPTS, now=now)


def test_no_payload_is_refused_unproven_before_its_attempts() -> None:
    judge = UnknownErrors()
    assert not judge.refuses_unproven(lone_failures=LONE_ATTEMPTS - 1, now=0.0)
    assert judge.refuses_unproven(lone_failures=LONE_ATTEMPTS, now=0.0)


@pytest.mark.parametrize("error", [RuntimeError("bug"), UnknownError("code 99999")])
def test_the_one_that_brings_it_on_is_refused_and_told_as_a_fault_of_ours(error: Exception) -> None:
    async def scenario() -> None:
        sink = ScriptedSink(lambda values: error if 37 in values else None)
        owner = Collector(100)
        async with running(sink, owner) as lane:
            await lane.submit(entries(owner, range(100)))
            kinds = await owner.wait()
            errors = lane.statistics().errors_by_class
        assert [n for n, kind in enumerate(kinds) if kind is OutcomeKind.REFUSED] == [37]
        assert kinds.count(OutcomeKind.DELIVERED) == 99
        assert sorted(map(str, sink.stored)) == sorted(str(n) for n in range(100) if n != 37)
        assert errors["unknown"] == 1
        assert "a fault of Drakkar" in owner.outcomes[37].reason
        assert str(error) in owner.outcomes[37].reason
        assert [failed.is_transient for failed in owner.failed] == [False]

    asyncio.run(scenario())


def test_one_alone_in_the_lane_is_refused_after_its_attempts_on_new_connections() -> None:
    class Reopened(ScriptedSink):
        opened = 0

        def open(self) -> None:
            self.opened += 1

    async def scenario() -> None:
        sink = Reopened(lambda values: RuntimeError("bug"))
        owner = Collector(1)
        async with running(sink, owner) as lane:
            await lane.submit(entries(owner, ["a"]))
            assert await owner.wait() == [OutcomeKind.REFUSED]
        assert len(sink.calls) == LONE_ATTEMPTS
        assert sink.opened == 1 + LONE_ATTEMPTS

    asyncio.run(scenario())


def test_a_server_ill_in_an_unknown_way_refuses_no_batch() -> None:
    """All fail until it is well again: at most the first few are given up, and few are tried."""

    async def scenario() -> None:
        left = 40

        def script(values: list[object]) -> Exception | None:
            nonlocal left
            left -= 1
            return RuntimeError("nobody knows this") if left > 0 else None

        sink, owner = ScriptedSink(script), Collector(500)
        async with running(sink, owner, breaker=PATIENT) as lane:
            await lane.submit(entries(owner, range(500)))
            kinds = await owner.wait()
        assert kinds.count(OutcomeKind.REFUSED) <= 1
        assert len(sink.stored) == 500 - kinds.count(OutcomeKind.REFUSED)

    asyncio.run(scenario())


@settings(max_examples=30, deadline=None)
@given(bad=st.sets(st.integers(0, 19)), count=st.integers(1, 20))
def test_the_good_are_stored_once_and_every_bad_one_ends_where_a_good_one_is(
    bad: set[int], count: int
) -> None:
    async def scenario() -> None:
        sink = ScriptedSink(lambda values: RuntimeError("bug") if bad & set(values) else None)
        owner = Collector(count)
        async with running(sink, owner, breaker=PATIENT) as lane:
            values = [*range(count)]
            if bad >= set(values):
                values[0] = 100  # a good one
            await lane.submit(entries(owner, values))
            kinds = await owner.wait()
        wanted = [OutcomeKind.REFUSED if one in bad else OutcomeKind.DELIVERED for one in values]
        assert kinds == wanted
        assert sorted(map(int, map(str, sink.stored))) == sorted(set(values) - bad)

    asyncio.run(scenario())
