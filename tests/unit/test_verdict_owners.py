"""The verdict notices work and commits of a run that no longer owns a partition."""

from __future__ import annotations

import math

import pytest

from integration.verdict.owners import (
    FENCE_SECONDS,
    RECEIVER_SECONDS,
    Silence,
    Told,
    commits_that_went_back,
    work_after_the_end,
    work_of_former_owners,
)


def told(at: float, kind: str, run: str = "a", epoch: int | None = None) -> Told:
    """Of partition 0; a run's events are told in the order of their times."""
    return Told(
        at=at, run=run, worker=f"w-{run}", seq=int(at * 10), kind=kind, partition=0, epoch=epoch
    )


HANDED_OVER = [
    told(1, "assigned", epoch=1),
    told(2, "message_completed"),
    told(3, "revoked", epoch=1),
    told(4, "assigned", "b", 1),
    told(5, "message_completed", "b"),
]
THAWED = [told(1, "assigned", epoch=1), told(20, "assigned", "b", 1)]


def test_a_hand_over_is_in_order() -> None:
    assert not list(work_after_the_end(HANDED_OVER))
    assert not list(work_of_former_owners(HANDED_OVER, ()))


@pytest.mark.parametrize("end", ["lost", "revoked"])
@pytest.mark.parametrize("kind", ["delivered", "message_completed"])
def test_work_after_the_end_of_its_epoch(end: str, kind: str) -> None:
    life = [told(1, "assigned", epoch=1), told(2, end, epoch=1)]
    late = told(2.1 + FENCE_SECONDS, kind)
    (breach,) = work_after_the_end([*life, late])
    assert breach == f"w-a told {kind} of partition 0 after its epoch"
    assert not list(work_after_the_end([*life, told(2.5, "assigned", epoch=2), late]))


def test_only_a_delivery_that_was_out_may_be_told_soon_after_the_end() -> None:
    life = [told(1, "assigned", epoch=1), told(2, "lost", epoch=1)]
    assert not list(work_after_the_end([*life, told(3, "delivered")]))
    assert list(work_after_the_end([*life, told(3, "message_completed")]))


def test_the_end_of_an_old_epoch_does_not_end_the_new_one() -> None:
    life = [told(1, "assigned", epoch=1), told(2, "assigned", epoch=2), told(3, "lost", epoch=1)]
    assert not list(work_after_the_end([*life, told(4, "delivered")]))


def test_a_former_owner_is_noticed_though_it_never_told_an_end() -> None:
    (breach,) = work_of_former_owners([*THAWED, told(25, "delivered")], ())
    assert breach == "w-a told delivered of partition 0 5.0 s after w-b had it"
    back = told(22, "assigned", epoch=2)
    assert not list(work_of_former_owners([*THAWED, back, told(25, "delivered")], ()))


def test_what_a_sink_held_while_kafka_was_away_may_be_told_when_the_sink_has_tried_again() -> None:
    life = [told(1, "assigned", epoch=1), told(6, "lost", epoch=1)]
    away = [Silence(worker="", began=2, until=22)]
    held, late = told(22 + RECEIVER_SECONDS, "delivered"), told(37.1, "delivered")
    assert not list(work_after_the_end([*life, held], away))
    assert not list(work_of_former_owners([*THAWED, held], away))
    assert list(work_after_the_end([*life, held], [Silence(worker="w-a", began=2, until=22)]))
    assert list(work_after_the_end([*life, held], [Silence(worker="", began=7, until=22)]))
    for breach in (late, told(22.1 + FENCE_SECONDS, "message_completed")):
        assert list(work_after_the_end([*life, breach], away))
        assert list(work_of_former_owners([*THAWED, breach], away))


@pytest.mark.parametrize("who", ["w-a", ""])
def test_a_thawed_worker_is_excused_until_it_can_have_heard(who: str) -> None:
    frozen = [Silence(worker=who, began=10, until=25)]
    kind = "message_completed"
    soon, late = told(25 + FENCE_SECONDS, kind), told(25.1 + FENCE_SECONDS, kind)
    assert not list(work_of_former_owners([*THAWED, soon], frozen))
    assert list(work_of_former_owners([*THAWED, late], frozen))


def test_a_frozen_worker_excuses_no_other() -> None:
    frozen = [Silence(worker="w-b", began=10, until=math.inf)]
    assert list(work_of_former_owners([*THAWED, told(25, "delivered")], frozen))


def test_a_commit_that_went_back() -> None:
    assert not list(commits_that_went_back([{0: 1}, {1: 7}, {0: 1, 1: 7}, {0: 2}]))
    (breach,) = commits_that_went_back([{0: 5}, {0: 3}, {0: 4}])
    assert breach == "partition 0: committed 5, then 3"
