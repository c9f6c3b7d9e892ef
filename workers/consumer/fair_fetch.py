"""Rounds for partitions that hold nothing, while room is short. Pure: time is an argument."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set

from workers.broker.base import TopicPartition

RESERVED_PART = 8
"""One in so many messages of the room is kept for partitions that hold none."""

ROUND_SECONDS = 2.0
REST_SECONDS = 2.0
MAX_REST_SECONDS = 16.0


def reserve_of(most_messages: int) -> int:
    """Return how much of the room only partitions that hold nothing may use."""
    return most_messages // RESERVED_PART


class FairFetch:
    """Gives partitions that hold nothing a round of their own, each a little from a reserve.

    The client hands out the messages of one partition after those of the other, so the first ones
    fill the room: the rest, and any that comes by a rebalance, would stand still until that backlog
    is worked off. In a round the others are not fetched. Rounds that serve nobody become rare.
    """

    def __init__(self, most_messages: int) -> None:
        self.reserve_messages = reserve_of(most_messages)
        self.round: Set[TopicPartition] = frozenset()
        """Those that alone are fetched now; empty: no round."""
        self._served = False
        self._rest_seconds = REST_SECONDS
        self._until = -1e9

    def on_assigned(self, now: float, *, is_first: bool) -> None:
        """Partitions have just come: a round is due; the first ones wait for no backlog yet."""
        self.round = frozenset()
        self._rest_seconds, self._until = REST_SECONDS, now + REST_SECONDS if is_first else now

    def messages_each(self, free_messages: int) -> int:
        """Return how many one poll may take in this round."""
        return max(1, min(free_messages, self.reserve_messages // max(1, len(self.round))))

    def step(
        self, now: float, free_messages: int, ask_held: Callable[[], Mapping[TopicPartition, int]]
    ) -> None:
        """Begin or end a round. ``ask_held`` tells of those that may be fetched what each holds."""
        if self.round:
            is_over = free_messages > 4 * self.reserve_messages
            self._go_on(now, _hungry(ask_held()), is_over=is_over)
        elif 0 < free_messages <= 2 * self.reserve_messages and now >= self._until:
            self._begin(now, ask_held())

    def _begin(self, now: float, held: Mapping[TopicPartition, int]) -> None:
        hungry = _hungry(held)
        if hungry and len(hungry) < len(held):
            self.round, self._served, self._until = hungry, False, now + ROUND_SECONDS
        else:
            self._until = now + REST_SECONDS

    def _go_on(self, now: float, hungry: Set[TopicPartition], *, is_over: bool) -> None:
        left = self.round & hungry
        self._served = self._served or len(left) < len(self.round)
        self.round = left
        if left and now < self._until and not is_over:
            return
        self.round = frozenset()
        doubled = min(MAX_REST_SECONDS, 2 * self._rest_seconds)
        self._rest_seconds = REST_SECONDS if self._served else doubled
        self._until = now + self._rest_seconds


def _hungry(held: Mapping[TopicPartition, int]) -> Set[TopicPartition]:
    return frozenset(key for key, count in held.items() if count <= 0)
