"""What a lane delivers next, and when: decided on a clock of the test's own."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from domain.breaker import BreakerPolicy, Circuit
from domain.payload import MemoryPayload
from sinks.base import Delivery
from sinks.lane_queue import HASTE_SECONDS, Entry, EntryState, LanePolicy, LaneQueue
from tests.support.lanes import Collector, entries_of

LINGER_SECONDS = 0.005


def policy(**fields: object) -> LanePolicy:
    defaults: dict[str, object] = {"max_batch": 3, "linger_seconds": LINGER_SECONDS}
    return LanePolicy(**{**defaults, **fields})  # type: ignore[arg-type]


def some(count: int) -> list[Entry]:
    deliveries = [
        Delivery(
            payload=MemoryPayload(sink="s", value=number),
            delivery_id=str(number),
            topic="t",
            partition=0,
            offset=number,
        )
        for number in range(count)
    ]
    return entries_of(Collector(count), deliveries)


def numbers(entries: Sequence[Entry]) -> list[int]:
    return [entry.index for entry in entries]


def busy(queue: LaneQueue, now: float = 0.0) -> list[Entry]:
    """A queue whose first batch of one is out."""
    queue.add(some(1), now)
    return queue.take(now)


def test_nothing_queued_waits_for_nothing_in_particular() -> None:
    queue = LaneQueue(policy())
    assert queue.wait_seconds(0.0) is None
    assert queue.take(0.0) == []


def test_an_idle_lane_delivers_at_once() -> None:
    queue = LaneQueue(policy())
    queue.add(some(1), 10.0)
    assert queue.wait_seconds(10.0) == 0.0
    (entry,) = queue.take(10.0)
    assert (entry.state, entry.queued_at, entry.started_at) == (EntryState.DELIVERING, 10.0, 10.0)
    assert entry.is_started


@pytest.mark.parametrize(("size", "lingers"), [(1, 0.25), (4, 1), (16, 4), (40, 4)])
def test_a_batch_is_followed_by_a_pause_of_its_size(size: int, lingers: float) -> None:
    queue = LaneQueue(policy(max_batch=50))
    queue.add(some(size), 1.0)
    queue.take(1.0)
    queue.add(others := some(2), 1.0)
    assert queue.wait_seconds(1.0) == pytest.approx(lingers * LINGER_SECONDS)
    assert queue.wait_seconds(1.0 + lingers * LINGER_SECONDS) == 0.0
    assert queue.take(1.0 + lingers * LINGER_SECONDS) == others


def test_an_empty_lane_sleeps_through_the_pause_only_where_more_is_to_be_expected() -> None:
    queue = LaneQueue(policy(max_batch=50))
    busy(queue)
    assert queue.wait_seconds(0.0) is None
    queue.add(some(16), 1.0)
    queue.take(1.0)
    assert queue.wait_seconds(1.0) == queue.pause_seconds(1.0) > 3.9 * LINGER_SECONDS
    assert queue.wait_seconds(2.0) is None


def test_no_pause_holds_up_an_owner_that_ends() -> None:
    queue = LaneQueue(policy(linger_seconds=60.0))
    busy(queue)
    queue.add(some(1), 1.0)
    queue.hasten([], 1.0)
    assert queue.wait_seconds(1.0) == 0.0


def test_a_full_batch_does_not_linger_and_is_no_larger_than_the_bound() -> None:
    queue = LaneQueue(policy())
    busy(queue)
    queue.add(some(4), 1.0)
    assert queue.wait_seconds(1.0) == 0.0
    assert numbers(queue.take(1.0)) == [0, 1, 2]
    assert queue.backlog == 1
    assert queue.wait_seconds(1.0) == pytest.approx(0.75 * LINGER_SECONDS)


def test_a_paused_lane_waits_until_something_changes() -> None:
    queue = LaneQueue(policy())
    queue.add(some(1), 0.0)
    queue.is_paused = True
    assert queue.wait_seconds(0.0) is None
    queue.is_paused = False
    assert queue.wait_seconds(0.0) == 0.0


def test_withdrawn_entries_are_never_taken_and_only_waiting_ones_can_be() -> None:
    queue = LaneQueue(policy())
    queue.add(entries := some(3), 0.0)
    assert queue.withdraw([entries[1]]) == [entries[1]]
    taken = queue.take(0.0)
    assert numbers(taken) == [0, 2]
    queue.hold([taken[0]])
    assert queue.withdraw(entries) == [entries[0]]
    assert taken[1].is_unwanted
    queue.put_back(taken)
    assert queue.dropped() == [taken[1]]
    assert queue.dropped() == []
    assert queue.take(0.0) == []
    assert queue.withdraw(entries) == []


def test_withdrawing_most_of_a_backlog_forgets_it() -> None:
    queue = LaneQueue(policy())
    queue.add(entries := some(100), 0.0)
    queue.withdraw(entries[:60])
    assert queue.backlog == 40
    assert numbers(queue.take(0.0)) == [60, 61, 62]


def test_a_queue_of_withdrawn_entries_gives_no_batch_and_does_not_spin() -> None:
    queue = LaneQueue(policy())
    queue.add(entries := some(3), 0.0)
    queue.withdraw(entries)
    assert queue.take(0.0) == []
    assert queue.wait_seconds(0.0) is None


def test_put_back_is_next_in_its_order() -> None:
    queue = LaneQueue(policy())
    queue.add(some(5), 0.0)
    queue.put_back(queue.take(0.0))
    queue.finished()
    assert numbers(queue.take(1.0)) == [0, 1, 2]


def test_a_delayed_entry_comes_at_its_moment_before_what_is_queued() -> None:
    queue = LaneQueue(policy())
    late = busy(queue)
    queue.delay(late, 7.0)
    queue.finished()
    assert queue.wait_seconds(3.0) == 4.0
    queue.add(others := some(2), 6.9)
    assert queue.wait_seconds(7.0) == 0.0
    assert queue.take(7.0) == [*late, *others]


def test_a_delayed_entry_that_was_withdrawn_does_not_come() -> None:
    queue = LaneQueue(policy())
    late = busy(queue)
    queue.delay(late, 7.0)
    queue.finished()
    assert queue.withdraw(late) == late
    assert queue.wait_seconds(7.0) is None
    assert queue.take(7.0) == []


@pytest.mark.parametrize("is_held", [True, False], ids=["between two attempts", "during one"])
def test_what_was_withdrawn_before_it_is_delayed_stays_withdrawn(is_held: bool) -> None:
    queue = LaneQueue(policy())
    late = busy(queue)
    if is_held:
        queue.hold(late)
    queue.withdraw(late)
    queue.delay(late, 7.0)
    queue.finished()
    assert [entry.state for entry in late] == [EntryState.WITHDRAWN]
    assert queue.wait_seconds(7.0) is None
    assert queue.take(7.0) == []


def test_a_rest_holds_everything_and_the_longest_counts() -> None:
    queue = LaneQueue(policy())
    queue.add(some(3), 0.0)
    queue.rest(2.0)
    queue.rest(1.0)
    assert queue.wait_seconds(0.5) == 1.5
    assert queue.wait_seconds(2.0) == 0.0


def test_an_open_breaker_lets_one_probe_through_after_its_cooldown() -> None:
    breaker = BreakerPolicy(failure_threshold=1, cooldown_seconds=10.0)
    queue = LaneQueue(policy(breaker=breaker))
    queue.add(some(6), 0.0)
    failed = queue.take(0.0)
    assert queue.breaker.failed(0.0)
    queue.put_back(failed)
    queue.finished()
    assert queue.take(1.0) == []
    assert queue.backlog == 6
    assert queue.wait_seconds(4.0) == 6.0
    probe = queue.take(10.0)
    assert numbers(probe) == [0, 1, 2]
    assert queue.wait_seconds(10.0) is None
    assert queue.breaker.state(10.0) is Circuit.HALF_OPEN
    assert queue.breaker.succeeded()
    queue.finished()
    assert queue.wait_seconds(10.0) == 0.0


def test_recover_takes_back_only_what_nobody_else_holds() -> None:
    queue = LaneQueue(policy(max_batch=6))
    queue.add(some(6), 0.0)
    batch = queue.take(0.0)
    queue.done([batch[0]])
    queue.put_back([batch[1]])
    queue.delay([batch[2]], 5.0)
    queue.hold([batch[3], batch[4]])
    queue.withdraw([batch[4]])
    assert queue.recover(batch) == [batch[3], batch[5]]
    queue.finished()
    assert queue.wait_seconds(5.0) == 0.0
    assert numbers(queue.take(5.0)) == [2, 3, 5, 1]


def test_what_an_ending_owner_waits_for_is_tried_soon_and_no_other_delay_is_cut() -> None:
    queue = LaneQueue(policy())
    ours, others = some(1), some(1)
    queue.delay(ours, 300.0)
    queue.delay(others, 200.0)
    queue.hasten([ours[0].owner], 10.0)
    assert queue.wait_seconds(10.0) == HASTE_SECONDS
    queue.hasten([ours[0].owner], 10.25)
    assert queue.wait_seconds(10.0 + HASTE_SECONDS) == 0.0
    assert queue.take(10.0 + HASTE_SECONDS) == ours
    queue.finished()
    assert queue.wait_seconds(11.0) == 189.0


def test_an_open_breaker_and_a_rest_are_cut_for_an_ending_owner() -> None:
    queue = LaneQueue(policy(breaker=BreakerPolicy(failure_threshold=1, cooldown_seconds=10)))
    queue.add(some(1), 0.0)
    failed = queue.take(0.0)
    assert queue.breaker.failed(0.0)
    queue.put_back(failed)
    queue.finished()
    queue.rest(8.0)
    queue.hasten([], 1.0)
    assert queue.take(1.0) == []
    assert queue.wait_seconds(1.0) == HASTE_SECONDS
    assert queue.take(1.0 + HASTE_SECONDS) == failed
