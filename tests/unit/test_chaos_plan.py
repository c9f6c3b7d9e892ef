"""The chaos test's schedules."""

from __future__ import annotations

import pytest

from integration.chaos_plan import (
    OPPOSITES,
    SERVICES,
    WORKERS,
    Deed,
    at_random,
    live_after,
    rolling,
)


@pytest.mark.parametrize("fault", OPPOSITES)
def test_the_rolling_outage_is_the_published_one(fault: Deed) -> None:
    steps = rolling(fault)
    assert [step.at_seconds for step in steps] == [30, 150, 390, 450, 510]
    live = [sorted(live_after(steps[:number])) for number in range(1, 6)]
    assert live == [
        ["worker-1", "worker-3"],
        ["worker-1"],
        ["worker-2"],
        ["worker-1", "worker-2"],
        ["worker-1", "worker-2", "worker-3"],
    ]


def test_a_seed_reproduces_its_schedule_and_another_makes_another() -> None:
    assert at_random(7, 5) == at_random(7, 5)
    assert at_random(7, 5) != at_random(8, 5)


@pytest.mark.parametrize("seed", range(30))
def test_random_faults_come_one_at_a_time_and_are_all_taken_back(seed: int) -> None:
    steps = at_random(seed, 5)
    assert steps
    down: tuple[Deed, str] | None = None
    moments = [step.at_seconds for step in steps]
    assert moments == sorted(moments)
    assert moments[-1] <= 300
    for step in steps:
        ((deed, target),) = step.deeds
        assert target in (*WORKERS, *SERVICES)
        if down is None:
            down = (deed, target)
            assert deed in OPPOSITES
            assert target in WORKERS or deed is not Deed.KILL
        else:
            assert (deed, target) == (OPPOSITES[down[0]], down[1])
            down = None
    assert down is None
    assert live_after(steps) == set(WORKERS)
