"""How much the consumer thread asks for, on a clock of the test's own."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import cast

import pytest

from domain.message import Record
from workers.broker.base import Broker, TopicPartition
from workers.consumer.claims import Claims, ConsumerParts
from workers.consumer.fetching import Fetching
from workers.consumer.ownership import Wanted, WantedBoard
from workers.consumer.policy import ConsumerPolicy

KEY = TopicPartition("jobs", 0)
MOST = 320


class Client:
    """Notes what is asked of it."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.paused: list[bool] = []

    def poll_batch(self, max_messages: int, timeout_seconds: float) -> list[Record]:
        self.asked.append(max_messages)
        return []

    def pause(self, partitions: Sequence[TopicPartition]) -> None:
        self.paused.append(True)

    def resume(self, partitions: Sequence[TopicPartition]) -> None:
        self.paused.append(False)


class Rig:
    """One partition, and room for MOST messages, of which an eighth is kept for hungry ones."""

    def __init__(self) -> None:
        self.now = 0.0
        self.client, self.board, self.claims = Client(), WantedBoard(MOST), Claims()
        self.claims.begin(KEY, 0, 0.0)
        self.wake = threading.Event()
        self.wake.set()
        self.fetching = Fetching(
            ConsumerParts(
                cast(Broker, self.client),
                lambda signal: None,
                self.board,
                self.claims,
                ConsumerPolicy(run="run-1"),
                lambda: self.now,
            )
        )

    def asks(self, free: int) -> int | None:
        """For how many is asked with so much free; None: not at all."""
        self.board.room_messages = free
        before = len(self.client.asked)
        self.fetching.hand_over(self.wake, 0.05)
        return self.client.asked[-1] if len(self.client.asked) > before else None


ASKED = [(MOST, 280), (60, 20), (50, 10), (49, None), (0, None)]


@pytest.mark.parametrize(("free", "asked"), ASKED)
def test_room_too_small_for_the_cost_of_a_poll_waits_for_the_next_slice(
    free: int, asked: int | None
) -> None:
    rig = Rig()
    rig.asks(MOST)
    assert rig.asks(free) == asked
    rig.now = 0.05
    assert rig.asks(free) == (max(0, free - MOST // 8) or None)


def test_everything_is_paused_after_a_second_without_room_until_half_is_free() -> None:
    rig = Rig()
    assert rig.asks(40) is None
    rig.now = 0.9
    assert rig.asks(40) is None
    assert rig.client.paused == []
    rig.now = 1.0
    assert rig.asks(40) == 1, "the client must be polled, if for nothing"
    assert rig.client.paused == [True]
    assert rig.asks(MOST // 2 - 1) == 1
    assert rig.asks(MOST // 2) == MOST // 2 - MOST // 8
    assert rig.client.paused == [True, False]


def test_a_partition_that_only_holds_what_is_not_due_has_its_round() -> None:
    rig = Rig()
    rig.asks(MOST)
    (retry,) = rig.claims
    busy = rig.claims.begin(TopicPartition("jobs", 1), 0, 0.0)
    busy.taken, retry.taken = 250, 3
    rig.board.publish(busy.claim, Wanted(frozenset(), None, 0))
    rig.board.publish(retry.claim, Wanted(frozenset(), None, 0, resting=3))
    rig.now = 10.0
    rig.asks(70)
    assert (retry.is_paused, busy.is_paused) == (False, True)
