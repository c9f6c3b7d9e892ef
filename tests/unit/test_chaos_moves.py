"""How long partitions stood still is read from the sampled commits."""

from __future__ import annotations

import pytest

from integration.chaos.moves import Move, Outage, breaches, moves
from integration.chaos.plan import Deed

DOWN = Outage(at=10.0, deed=Deed.KILL, worker="worker-2", partitions=frozenset({0, 1, 2}))
SAMPLES = [
    (9.0, {0: 3, 1: 3, 2: 9, 3: 1}),
    (10.4, {0: 4, 1: 3, 2: 9, 3: 2}),
    (17.0, {0: 5, 1: 3, 2: 9, 3: 3}),
    (19.5, {0: 9, 1: 4, 2: 9, 3: 4}),
]


@pytest.fixture
def move() -> Move:
    (found,) = moves([DOWN], SAMPLES)
    return found


def test_each_partition_of_the_worker_is_measured_to_its_first_move(move: Move) -> None:
    assert move.seconds == {0: 7.0, 1: 9.5}
    assert move.idle == {2}
    assert "2 partitions moved after 7.0 to 9.5 s (median 8.2); 1 had nothing left" in move.text()


def test_a_partition_that_stood_still_for_too_long_is_a_breach(move: Move) -> None:
    assert not list(breaches([move], 9.5))
    (breach,) = breaches([move], 9.4)
    assert breach == "worker-2 kill: a partition stood still for 9.5 s, more than 9.4 s"


def test_nothing_measured_is_a_breach() -> None:
    (idle,) = moves([DOWN], SAMPLES[:2])
    assert "nothing was left in its 3 partitions" in idle.text()
    assert list(breaches([idle], 10))
    assert list(breaches([], 10))
