"""The pause of a lane between two batches, over any arrival of payloads, on a made-up clock."""

from __future__ import annotations

from itertools import accumulate

from hypothesis import given
from hypothesis import strategies as st

from domain.payload import MemoryPayload
from sinks.base import Delivery
from sinks.lane_queue import DENSE_BATCH, Entry, LanePolicy, LaneQueue
from tests.support.lanes import Collector, entries_of

LINGER_SECONDS = 0.005
MAX_BATCH = 50
gaps = st.lists(st.floats(0.0, 0.05), min_size=1, max_size=80)


def entry_of(number: int) -> Entry:
    delivery = Delivery(
        payload=MemoryPayload(sink="s", value=number),
        delivery_id=str(number),
        topic="t",
        partition=0,
        offset=number,
    )
    (entry,) = entries_of(Collector(1), [delivery])
    return entry


def batches_of(arrivals: list[float]) -> list[tuple[float, list[Entry]]]:
    """When each batch goes out, and with what, where ``send`` takes no time."""
    queue = LaneQueue(LanePolicy(max_batch=MAX_BATCH, linger_seconds=LINGER_SECONDS))
    gone: list[tuple[float, list[Entry]]] = []

    def take_until(moment: float) -> None:
        now = gone[-1][0] if gone else 0.0
        while queue.backlog:
            wait_seconds = queue.wait_seconds(now)
            assert wait_seconds is not None
            now += wait_seconds
            if now > moment:
                return
            if batch := queue.take(now):
                gone.append((now, batch))
                queue.finished()

    for number, arrival in enumerate(arrivals):
        take_until(arrival)
        queue.add([entry_of(number)], arrival)
        if queue.wait_seconds(arrival) == 0.0 and (batch := queue.take(arrival)):
            gone.append((arrival, batch))
            queue.finished()
    take_until(float("inf"))
    return gone


@given(st.integers(1, 10_000), st.floats(0.0, 60.0))
def test_the_pause_grows_with_the_batch_between_its_bounds(size: int, linger: float) -> None:
    policy = LanePolicy(linger_seconds=linger)
    assert linger / 4 <= policy.pause_seconds(size) <= 4 * linger
    assert policy.pause_seconds(size) <= policy.pause_seconds(size + 1)
    assert policy.pause_seconds(DENSE_BATCH) == 4 * linger


@given(gaps)
def test_all_go_out_in_order_and_none_waits_longer_than_the_pause_before_it(
    several: list[float],
) -> None:
    policy = LanePolicy(linger_seconds=LINGER_SECONDS)
    gone = batches_of(list(accumulate(several)))
    numbers = [entry.delivery.offset for _, batch in gone for entry in batch]
    assert numbers == list(range(len(several)))
    last = (-1.0, 0)
    for moment, batch in gone:
        for entry in batch:
            until = max(entry.queued_at, last[0] + policy.pause_seconds(last[1]))
            assert entry.queued_at <= moment <= until + 1e-9
        last = (moment, len(batch))


@given(st.lists(st.floats(LINGER_SECONDS / 4 + 1e-6, 1.0), min_size=1, max_size=80))
def test_whoever_comes_alone_waits_for_nothing(several: list[float]) -> None:
    gone = batches_of(list(accumulate(several)))
    assert all(entry.queued_at == moment for moment, batch in gone for entry in batch)


@given(st.integers(8, 40))
def test_what_comes_densely_goes_out_by_the_dozen(a_linger: int) -> None:
    """So many come in one linger, for a while: all but the first few batches are large."""
    arrivals = [number * LINGER_SECONDS / a_linger for number in range(400)]
    gone = batches_of(arrivals)
    assert all(len(batch) >= DENSE_BATCH for _, batch in gone[5:-1])
