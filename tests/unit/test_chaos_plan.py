"""The chaos test's schedules."""

from __future__ import annotations

import pytest

from integration.chaos.plan import (
    OPPOSITES,
    SERVICES,
    WORKERS,
    Deed,
    at_random,
    killing,
    live_after,
    rolling,
    short,
)
from integration.demo.clusters import KAFKA

SEEDS = range(30)


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


def test_seed_minutes_and_kind_of_broker_name_a_schedule() -> None:
    assert at_random(7, 5, "apache") == at_random(7, 5, "apache")
    assert at_random(7, 5, "apache") != at_random(8, 5, "apache")
    assert at_random(7, 5, "apache") != at_random(7, 4, "apache")
    assert any(at_random(seed, 5, "mock") != at_random(seed, 5, "apache") for seed in SEEDS)


@pytest.mark.parametrize(
    ("kafka", "faults"), [("apache", {Deed.STOP, Deed.FREEZE}), ("mock", {Deed.FREEZE})]
)
def test_a_broker_that_keeps_nothing_is_frozen_but_never_stopped(
    kafka: str, faults: set[Deed]
) -> None:
    acts = [act for seed in SEEDS for step in at_random(seed, 5, kafka) for act in step.deeds]
    assert {deed for deed, target in acts if target == KAFKA and deed in OPPOSITES} == faults
    stopped = {target for deed, target in acts if deed is Deed.STOP}
    assert stopped - {KAFKA} == {*WORKERS, *SERVICES}


@pytest.mark.parametrize("kafka", ["apache", "mock"])
@pytest.mark.parametrize("seed", SEEDS)
def test_random_faults_come_one_at_a_time_and_are_all_taken_back(seed: int, kafka: str) -> None:
    steps = at_random(seed, 5, kafka)
    assert steps
    down: tuple[Deed, str] | None = None
    moments = [step.at_seconds for step in steps]
    assert moments == sorted(moments)
    assert moments[-1] <= 300
    for step in steps:
        ((deed, target),) = step.deeds
        assert target in (*WORKERS, *SERVICES, KAFKA)
        if down is None:
            down = (deed, target)
            assert deed in OPPOSITES
            assert target in WORKERS or deed is not Deed.KILL
        else:
            assert (deed, target) == (OPPOSITES[down[0]], down[1])
            down = None
    assert down is None
    assert live_after(steps) == set(WORKERS)


def test_one_worker_after_the_other_is_killed_and_comes_back() -> None:
    steps = killing(20, 3)
    kills = [(step.at_seconds, step.deeds[0][1]) for step in steps[::2]]
    assert kills == [(20.0 * n, WORKERS[n % 3]) for n in range(9)]
    assert all(len(live_after(steps[:number])) >= 2 for number in range(len(steps)))
    assert live_after(steps) == set(WORKERS)


def test_the_short_schedule_freezes_one_and_kills_one_and_takes_all_back() -> None:
    steps = short()
    assert live_after(steps[:1]) == {"worker-1"}
    assert {deed for deed, _ in steps[0].deeds} == {Deed.FREEZE, Deed.KILL}
    assert live_after(steps) == set(WORKERS)
